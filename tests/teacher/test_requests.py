"""The room that a request leaves for its answer."""

from collections.abc import Callable

import pytest

from magicoder import config
from magicoder.teacher.records import PromptTooLong
from magicoder.teacher.requests import Request, RequestMaker


@pytest.fixture
def maker(settings: Callable[..., config.GenerateConfig]) -> Callable[[int], RequestMaker]:
    stage = settings("stage=generate")
    return lambda tokens: RequestMaker(stage.teacher, [], 976, lambda text: tokens)


@pytest.mark.parametrize(("prompt_tokens", "max_tokens"), [(1, 2500), (5682, 2500), (5683, 2499), (8181, 1)])
def test_an_answer_gets_what_context_and_prompt_leave(
    maker: Callable[[int], RequestMaker], prompt_tokens: int, max_tokens: int
) -> None:
    request = maker(prompt_tokens).make(5, "code")
    assert isinstance(request, Request)
    assert request.max_tokens == max_tokens


@pytest.mark.parametrize("prompt_tokens", [8182, 10**7])
def test_a_prompt_that_fills_the_context_makes_no_request(
    maker: Callable[[int], RequestMaker], prompt_tokens: int
) -> None:
    assert maker(prompt_tokens).make(5, "code") == PromptTooLong(5, prompt_tokens)
