"""A request that asks for what does not exist or does not fit the model: refused with 400."""

from typing import ClassVar

from genserve.errors.base import GenServeError


class InvalidRequest(GenServeError):
    code = "bad_request"
    status = 400
    names: ClassVar[tuple[str, ...]] = ("problem",)


class MalformedBody(InvalidRequest):
    """`problem`: what the parser found, in words that name no file and no address."""

    code = "malformed_body"


class UnknownModel(InvalidRequest):
    code = "unknown_model"
    names: ClassVar[tuple[str, ...]] = ("model", "available")


class ModelNotInstalled(InvalidRequest):
    code = "model_not_installed"
    names: ClassVar[tuple[str, ...]] = ("model", "folder")


class ModelBroken(InvalidRequest):
    """The model's folder is there but cannot be used; `reason` names the file."""

    code = "model_broken"
    names: ClassVar[tuple[str, ...]] = ("model", "reason")


class UnsupportedMode(InvalidRequest):
    code = "unsupported_mode"
    names: ClassVar[tuple[str, ...]] = ("model", "mode", "supported")


class UnknownMode(InvalidRequest):
    code = "unknown_mode"
    names: ClassVar[tuple[str, ...]] = ("mode", "available")


class UnsupportedControl(InvalidRequest):
    code = "unsupported_control"
    names: ClassVar[tuple[str, ...]] = ("model", "control", "supported")


class UnsupportedMask(InvalidRequest):
    """The model follows a control picture, but cannot keep a part of the picture beside it."""

    code = "unsupported_mask"
    names: ClassVar[tuple[str, ...]] = ("model",)


class UnsupportedControlWeight(InvalidRequest):
    """The model takes control pictures as a part of its input: all of it, in every step."""

    code = "unsupported_control_weight"
    names: ClassVar[tuple[str, ...]] = ("model",)


class ControlNotInstalled(InvalidRequest):
    """The model has a ControlNet for it, but that cannot be used; `reason` says why."""

    code = "control_not_installed"
    names: ClassVar[tuple[str, ...]] = ("model", "control", "reason")


class UnknownScheduler(InvalidRequest):
    code = "unknown_scheduler"
    names: ClassVar[tuple[str, ...]] = ("model", "scheduler", "supported")


class UnsupportedSigmas(InvalidRequest):
    code = "unsupported_sigmas"
    names: ClassVar[tuple[str, ...]] = ("model", "sigmas", "supported")


class SchedulerWithoutSigmas(InvalidRequest):
    """The scheduler's noise levels cannot be spaced; `able` are the model's that can."""

    code = "scheduler_without_sigmas"
    names: ClassVar[tuple[str, ...]] = ("scheduler", "sigmas", "able")


class ContradictingSigmas(InvalidRequest):
    """The scheduler's name carries other noise levels than `sigmas` asks for."""

    code = "contradicting_sigmas"
    names: ClassVar[tuple[str, ...]] = ("scheduler", "sigmas")


class PromptTooComplex(InvalidRequest):
    """`passes` is how often a text encoder would have to run."""

    code = "prompt_too_complex"
    names: ClassVar[tuple[str, ...]] = ("passes", "limit")


class UnsupportedClipSkip(InvalidRequest):
    code = "unsupported_clip_skip"
    names: ClassVar[tuple[str, ...]] = ("model",)


class UnknownVae(InvalidRequest):
    code = "unknown_vae"
    names: ClassVar[tuple[str, ...]] = ("vae", "available")


class UnsupportedVae(InvalidRequest):
    code = "unsupported_vae"
    names: ClassVar[tuple[str, ...]] = ("model",)


class VaeDoesNotFit(InvalidRequest):
    """`reason` says what is wrong: another number of channels, or weights that are missing."""

    code = "vae_does_not_fit"
    names: ClassVar[tuple[str, ...]] = ("vae", "model", "reason")


class EmbeddingBroken(InvalidRequest):
    """A trained word's file that cannot be used any more; `reason` names the file."""

    code = "embedding_broken"
    names: ClassVar[tuple[str, ...]] = ("name", "reason")


class BadControlRange(InvalidRequest):
    code = "bad_control_range"
    names: ClassVar[tuple[str, ...]] = ("start", "end")


class UnknownLora(InvalidRequest):
    code = "unknown_lora"
    names: ClassVar[tuple[str, ...]] = ("lora", "available")


class UnsupportedLora(InvalidRequest):
    code = "unsupported_lora"
    names: ClassVar[tuple[str, ...]] = ("model",)


class LoraOfAnotherFamily(InvalidRequest):
    """`base` is the family that the LoRA was made for, `takes` what the model takes."""

    code = "lora_of_another_family"
    names: ClassVar[tuple[str, ...]] = ("lora", "base", "model", "takes")


class LoraBroken(InvalidRequest):
    """The LoRA's file is there but cannot be used; `reason` names the file."""

    code = "lora_broken"
    names: ClassVar[tuple[str, ...]] = ("lora", "reason")


class LoraDoesNotFit(InvalidRequest):
    """The LoRA is not for this model; `reason` names the first tensor that does not fit."""

    code = "lora_does_not_fit"
    names: ClassVar[tuple[str, ...]] = ("lora", "model", "reason")


class UnsupportedNegativePrompt(InvalidRequest):
    code = "unsupported_negative_prompt"
    names: ClassVar[tuple[str, ...]] = ("model",)


class PreprocessorMissing(InvalidRequest):
    """A photo was given as control picture, and the model that makes the map is not installed."""

    code = "preprocessor_not_installed"
    names: ClassVar[tuple[str, ...]] = ("control", "model", "folder")


class MissingImage(InvalidRequest):
    code = "missing_image"
    names: ClassVar[tuple[str, ...]] = ("mode", "field")


class MaskSizeMismatch(InvalidRequest):
    """A mask of other width or height, in pixels, than the picture that it is for."""

    code = "mask_size"
    names: ClassVar[tuple[str, ...]] = ("width", "height", "needed_width", "needed_height")


class BadImage(InvalidRequest):
    """`field` is the request's field; `problem` says what is wrong with the picture."""

    code = "bad_image"
    names: ClassVar[tuple[str, ...]] = ("field", "problem")
