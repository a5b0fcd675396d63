"""Stage 3's question to a model behind an address that speaks OpenAI's chat completions. Not in ComfyUI's archive."""

import base64
import io
import json
import os
import urllib.request
from typing import Any

from PIL import Image

from ..errors import WeightsError

_TIMEOUT = 300.0
"""Seconds that an address may take for an answer."""


def ask(address: str, model: str, prompt: str, crops: list[Image.Image]) -> str:
    """The answer of a chat completion; a key is taken from OPENAI_API_KEY. Raises WeightsError."""
    content: list[dict[str, Any]] = []
    for crop in crops:
        buffer = io.BytesIO()
        crop.save(buffer, "png")
        data = base64.b64encode(buffer.getvalue()).decode()
        content.append({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}})
    content.append({"type": "text", "text": prompt})
    body = {"model": model, "messages": [{"role": "user", "content": content}], "max_tokens": 64, "temperature": 0}
    headers = {"Content-Type": "application/json"}
    if os.environ.get("OPENAI_API_KEY"):
        headers["Authorization"] = f"Bearer {os.environ['OPENAI_API_KEY']}"
    request = urllib.request.Request(f"{address.rstrip('/')}/chat/completions", json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as reply:
            return str(json.load(reply)["choices"][0]["message"]["content"]).strip()
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise WeightsError(f"{address}, which --vision names, gave no answer ({error}).") from error
