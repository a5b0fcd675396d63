"""What all our nodes share when they describe themselves."""

from dataclasses import fields
from typing import Any

from comfy_api.latest import io

CATEGORY = "OP4KSR"


def node_schema(name: str, title: str, aliases: list[str], **rest: Any) -> io.Schema:
    """A node's schema in our category, with search aliases in versions that have them; 0.3.64 has none.

    No `essentials_category`: a node that has one stands among ComfyUI's own nodes, away from the rest of the pack.
    """
    if "search_aliases" in {field.name for field in fields(io.Schema)}:
        rest["search_aliases"] = aliases
    return io.Schema(node_id=f"OP4KSR_{name}", display_name=title, category=CATEGORY, **rest)
