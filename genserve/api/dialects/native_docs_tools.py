"""The native API's answers about picture tools as models, for OpenAPI."""

from typing import Literal

from genserve.api.dialects.native_docs import Answer


class Parameter(Answer):
    """A number that a preprocessor takes."""

    name: str
    default: float
    minimum: float
    maximum: float


class PreprocessorSummary(Answer):
    """What makes control maps. `missing`: what is wrong, or the folder to put its files into."""

    id: str
    description: str
    control_types: list[str]
    installed: bool
    missing: str | None
    parameters: list[Parameter]


class PreprocessorList(Answer):
    """Every configured preprocessor."""

    success: Literal[True]
    preprocessors: list[PreprocessorSummary]
