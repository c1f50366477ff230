"""The room that a request leaves for its answer."""

from collections.abc import Callable

import pytest

from magicoder import config
from magicoder.teacher.requests import RequestMaker


@pytest.fixture
def maker(settings: Callable[..., config.Generate]) -> Callable[[int], RequestMaker]:
    stage = settings("stage=generate")
    return lambda tokens: RequestMaker(stage.teacher, stage.prompt, 976, lambda text: tokens)


@pytest.mark.parametrize(
    ("prompt_tokens", "max_tokens"), [(1, 2500), (5682, 2500), (5683, 2499), (8181, 1), (8182, None), (10**7, None)]
)
def test_an_answer_gets_what_context_and_prompt_leave(
    maker: Callable[[int], RequestMaker], prompt_tokens: int, max_tokens: int | None
) -> None:
    body = maker(prompt_tokens).body(5, "code")
    assert (body and body["max_tokens"]) == max_tokens
