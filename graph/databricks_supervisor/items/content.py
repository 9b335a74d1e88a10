"""Converts content blocks of LangChain (v0, v1), OpenAI (chat, Responses) and Anthropic to the service's parts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final

from .json_values import Item, canonical

# Tuples, not sets: the values looked up in them may be unhashable JSON.
TEXT: Final = ("text", "output_text", "input_text", "text-plain")
MEDIA: Final = (
    *("image", "image_url", "input_image"),
    *("file", "input_file", "document", "media", "audio", "input_audio", "video"),
)

_ANNOTATIONS: Final = {
    "url_citation": ("url", "title", "start_index", "end_index"),
    "file_citation": ("file_id", "filename", "index"),
    "container_file_citation": ("container_id", "file_id", "filename", "start_index", "end_index"),
    "file_path": ("file_id", "index"),
}


def parts_of(content: object) -> list[Item]:
    """The content of a user or system message as input parts: text, images, files, audio.

    Args:
        content: A string, or a list of strings and content blocks of any known format.

    Returns:
        Non-empty ``input_text``, ``input_image``, ``input_file`` and ``input_audio`` parts; binary data as ``data:``
        URLs, an unknown block as JSON text.

    Example:
        >>> parts_of([{"type": "image", "base64": "aGk=", "mime_type": "image/png"}])
        [{'type': 'input_image', 'image_url': 'data:image/png;base64,aGk='}]
    """
    parts: list[Item] = []
    for block in blocks_of(content):
        kind = block.get("type")
        if kind == "tool_result":
            continue
        if kind in MEDIA and (media := _media(block)) is not None:
            parts.append(media)
        elif text := text_of(block):
            parts.append({"type": "input_text", "text": text})
    return parts


def output_text_of(output: object) -> str:
    """A tool's output as one string, as the service requires it (docs/wire.md: Client-side functions).

    Example:
        >>> output_text_of([{"type": "text", "text": "3 rows"}, {"type": "image", "url": "https://x/y.png"}])
        '3 rows\\n[image: https://x/y.png]'
    """
    if output is None:
        return ""
    if isinstance(output, str):
        return output
    if isinstance(output, list) and output and all(isinstance(part, str | dict) for part in output):
        return "\n".join(text for block in blocks_of(output) if (text := text_of(block)))
    return json.dumps(output, ensure_ascii=False, default=str)


def annotations_of(block: Item) -> Item:
    """The block's complete annotations of known types, as ``{"annotations": […]}``; ``{}`` if there are none.

    Example:
        >>> annotations_of({"annotations": [{"type": "file_path", "file_id": "f", "index": 0, "x": None}]})
        {'annotations': [{'type': 'file_path', 'file_id': 'f', 'index': 0}]}
    """
    given = block.get("annotations")
    known: list[Item] = []
    for annotation in given if isinstance(given, list) else []:
        kind = annotation.get("type") if isinstance(annotation, dict) else None
        keys = _ANNOTATIONS.get(kind, ()) if isinstance(kind, str) else ()
        if keys and all(isinstance(annotation.get(key), str | int) for key in keys):
            known.append({"type": kind} | {key: annotation[key] for key in keys})
    return {"annotations": known} if known else {}


def blocks_of(content: object) -> Iterator[Item]:
    """The content as blocks, without LangChain's wrappers."""
    for block in content if isinstance(content, list) else [content]:
        if isinstance(block, str):
            yield {"type": "text", "text": block}
        elif isinstance(block, dict):
            yield _unwrapped(block)
        elif block is not None:
            yield {"type": "text", "text": canonical(block)}


def _unwrapped(block: Item) -> Item:
    if block.get("type") == "non_standard" and isinstance(value := block.get("value"), dict):
        return value
    match block:
        case {"source": {"type": "text", "data": str(text)}} | {"source_type": "text", "text": str(text)}:
            return {"type": "text", "text": text}  # A plain-text document.
    return block


def text_of(block: Item) -> str:
    """A block as text: its text if it has one, otherwise a short description or its JSON.

    Example:
        >>> text_of({"type": "image", "base64": "aGk=", "mime_type": "image/png"})
        '[image]'
    """
    kind = block.get("type")
    if kind in TEXT or not isinstance(kind, str):
        if isinstance(text := block.get("text"), str):
            return text
        return "" if kind in TEXT and text is None else canonical(block)
    if kind == "refusal" and isinstance(block.get("refusal"), str):
        return str(block["refusal"])
    if kind == "json" and "json" in block:
        return canonical(block["json"])
    if kind in MEDIA:
        media = _media(block) or {}
        keys = ("filename", "image_url", "file_url", "file_id")
        where = next((media[key] for key in keys if key in media), "")
        name = kind.removeprefix("input_").removesuffix("_url")
        return f"[{name}: {where}]" if where and not where.startswith("data:") else f"[{name}]"
    return canonical(block)


def _media(block: Item) -> Item | None:
    """An image, file or audio block as an input part; ``None`` if it is empty."""
    kind = str(block["type"])
    inner = next((value for key in ("source", "file", kind) if isinstance(value := block.get(key), dict)), {})
    if "audio" in kind and isinstance(inner.get("data"), str):
        sound = {"data": inner["data"], "format": str(inner.get("format") or "wav")}
        return {"type": "input_audio", "input_audio": sound}

    def find(*keys: str) -> str | None:
        found = (value for key in keys for place in (inner, block) if (value := place.get(key)))
        return next((value for value in found if isinstance(value, str)), None)

    mime = find("mime_type", "media_type")
    data = find("base64", "data")
    url = find("url", "image_url", "file_url")
    file_id = find("file_id") or (find("id") if block.get("source_type") == "id" else None)
    if "audio" in kind and data:
        sound = {"data": data, "format": (mime or "audio/wav").rpartition("/")[2]}
        return {"type": "input_audio", "input_audio": sound}
    is_image = "image" in kind or (kind == "media" and (mime or "").startswith("image/"))
    if data and not data.startswith("data:"):
        data = f"data:{mime or ('image/png' if is_image else 'application/octet-stream')};base64,{data}"
    if is_image:
        detail = find("detail")
        found = {"image_url": data or url} if data or url else {"file_id": file_id}
        extra = {"detail": detail} if detail and detail != "auto" else {}
        return {"type": "input_image", **found, **extra} if data or url or file_id else None
    data = data or find("file_data")
    if not (data or url or file_id):
        return None
    name = find("filename", "file_name", "name", "title")
    found = {"file_data": data} if data else {"file_url": url} if url else {"file_id": file_id}
    return {"type": "input_file", **({"filename": name} if name else {}), **found}
