"""What all our nodes share when they describe themselves."""

from dataclasses import fields
from typing import Any

from comfy_api.latest import io

CATEGORY = "OP4KSR"


def node_schema(name: str, title: str, aliases: list[str], essentials: str = "", **rest: Any) -> io.Schema:
    """A node's schema in our category. Versions that have them get the search aliases and the place among the
    essentials; 0.3.64 has neither."""
    known = {field.name for field in fields(io.Schema)}
    if "search_aliases" in known:
        rest["search_aliases"] = aliases
    if essentials and "essentials_category" in known:
        rest["essentials_category"] = essentials
    return io.Schema(node_id=f"OP4KSR_{name}", display_name=title, category=CATEGORY, **rest)
