"""How many tokens a prompt has, told from its bytes."""

import base64
import json
import time
from typing import Any

import pytest

from ccflare_core.anthropic.prompt_size import (
    IMAGE_TOKENS,
    MOST_BYTES,
    MOST_PROMPT,
    REFERENCE_TOKENS,
    estimated_tokens,
)

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"\0" * 30_000).decode()
PDF = base64.b64encode(b"%PDF-1.7\n" + b"\0" * 30_000).decode()


def body(*content: Any, **separators: Any) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": content}]}, **separators).encode()


def data(media: str, text: str) -> dict[str, Any]:
    return {"type": "image", "source": {"type": "base64", "media_type": media, "data": text}}


def test_text_has_a_token_for_three_bytes() -> None:
    assert estimated_tokens(b"x" * 3000) == 1000
    assert estimated_tokens(b"") == 0


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_an_image_has_no_more_than_the_largest(separators: tuple[str, str]) -> None:
    without = estimated_tokens(body(data("image/png", ""), separators=separators))

    assert estimated_tokens(body(data("image/png", PNG), separators=separators)) - without == IMAGE_TOKENS
    assert estimated_tokens(body(data("image/png", PNG[:300]), separators=separators)) - without == 100


def test_a_document_has_all_of_its_bytes() -> None:
    assert estimated_tokens(body(data("application/pdf", PDF))) > len(PDF) // 3


@pytest.mark.parametrize("source", [{"type": "file", "file_id": "file_1"}, {"type": "url", "url": "https://x.example"}])
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_what_is_named_and_not_sent_along_is_not_nothing(source: dict[str, str], separators: tuple[str, str]) -> None:
    asked = body({"type": "document", "source": source}, separators=separators)

    assert estimated_tokens(asked) == len(asked) // 3 + REFERENCE_TOKENS


def test_no_prompt_is_longer_than_the_longest() -> None:
    assert estimated_tokens(b"x" * 4 * MOST_PROMPT) == MOST_PROMPT
    assert estimated_tokens(body(data("image/png", PNG[:8] + "A" * MOST_BYTES))) == MOST_PROMPT
    assert estimated_tokens(b'{"data":"iVBOR') == 4


def test_a_prompt_full_of_images_is_walked_through_once() -> None:
    asked = body(*[data("image/png", "iVBOR")] * 40_000)
    began = time.process_time()

    estimated_tokens(asked)

    assert time.process_time() - began < 5
