"""What a picture says about itself: A1111's parameters text, and the IPTC mark "made by AI".

The text is what Stable Diffusion WebUI and Forge write and read (processing.py,
create_infotext): prompt, negative prompt, one line of `Key: value` pairs. No time and no id in
it, so that the same request and seed give the same bytes.
"""

import json
from collections.abc import Mapping

import genserve
from genserve.domain.lora import LoraSource
from genserve.domain.model import ModelSpec
from genserve.domain.request import TOOL_MODES, GenerationRequest, ImageRole, LoraRef, Mode
from genserve.domain.samplers import A1111_NAMES

_SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
AUTO_V2_DIGITS = 10
_TOOL_KINDS = {Mode.UPSCALE: "algorithmicallyEnhanced", Mode.PREPROCESS: "algorithmicMedia"}
_XMP = """<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
 Iptc4xmpExt:DigitalSourceType="{source_type}"/>
</rdf:RDF></x:xmpmeta>
<?xpacket end="r"?>"""


def parameters(
    request: GenerationRequest,
    spec: ModelSpec,
    *,
    seed: int,
    native: tuple[int, int],
    distilled_guidance: bool,
    loras: Mapping[str, LoraSource] | None = None,
) -> str:
    """The A1111 text of one picture. `native` is the size in pixels that was drawn, `loras` are the
    files behind the request's LoRAs."""
    if request.mode in TOOL_MODES:
        return _line(_tool_pairs(request, spec, native))
    tags = "".join(f" <lora:{_tag(lora)}>" for lora in request.loras)
    lines = [request.prompt.replace("\0", "") + tags]
    if request.negative_prompt:
        lines.append(f"Negative prompt: {request.negative_prompt}".replace("\0", ""))
    pairs = _pairs(request, spec, seed, native, distilled_guidance)
    lines.append(_line(pairs | _lora_pairs(request, loras or {}) | _version()))
    return "\n".join(lines)


def _tag(lora: LoraRef) -> str:
    """Name and strengths as A1111's prompts have them: one for both, or text encoders' first."""
    if lora.text_weight is None:
        return f"{lora.name}:{lora.weight:g}"
    return f"{lora.name}:{lora.text_weight:g}:{lora.weight:g}"


def _lora_pairs(request: GenerationRequest, loras: Mapping[str, LoraSource]) -> dict[str, str]:
    """The files by the first digits of their hash, by which Civitai finds them (AutoV2)."""
    hashes = [
        f"{lora.name}: {loras[lora.name].sha256[:AUTO_V2_DIGITS]}"
        for lora in request.loras
        if lora.name in loras
    ]
    return {"Lora hashes": ", ".join(hashes)} if hashes else {}


def _version() -> dict[str, str]:
    return {"Version": f"GenServe {genserve.__version__}"}


def _line(pairs: dict[str, str]) -> str:
    return ", ".join(f"{name}: {_quoted(value)}" for name, value in pairs.items())


def _tool_pairs(
    request: GenerationRequest, spec: ModelSpec, native: tuple[int, int]
) -> dict[str, str]:
    """An upscaled picture's as A1111 has them; a control map's in the same style."""
    pairs = {"Preprocessor": spec.id}
    if request.mode is Mode.UPSCALE:
        scale = (request.width or native[0]) / native[0]
        pairs = {"Postprocess upscale by": f"{scale:g}", "Postprocess upscaler": spec.id}
    return pairs | _version()


def _pairs(
    request: GenerationRequest,
    spec: ModelSpec,
    seed: int,
    native: tuple[int, int],
    distilled_guidance: bool,
) -> dict[str, str]:
    scheduler = request.scheduler or ""
    pairs = {
        "Steps": str(request.steps),
        "Sampler": A1111_NAMES.get(scheduler, scheduler),
        "CFG scale": "1" if distilled_guidance else f"{request.guidance:g}",
    }
    if distilled_guidance:  # Forge's name for guidance that the network takes as an input
        pairs["Distilled CFG Scale"] = f"{request.guidance:g}"
    pairs |= {
        "Seed": str(seed),
        "Size": f"{request.width}x{request.height}",
        "Model": request.model,
    }
    if request.sigmas is not None:
        pairs["Schedule type"] = request.sigmas.capitalize()
    if request.clip_skip is not None:
        pairs["Clip skip"] = str(request.clip_skip)
    if request.vae is not None:
        pairs["VAE"] = request.vae
    if request.image(ImageRole.INIT) is not None:
        pairs["Denoising strength"] = f"{request.strength:g}"
    if spec.id != request.model:
        pairs["Served by"] = spec.id
    if native != (request.width, request.height):
        pairs["Native size"] = f"{native[0]}x{native[1]}"
    return pairs


def _quoted(value: str) -> str:
    """As A1111's parser needs it: JSON where a comma, colon or newline would end the value."""
    if any(mark in value for mark in ',:\n"'):
        return json.dumps(value, ensure_ascii=False)
    return value


def xmp(request: GenerationRequest) -> str:
    """The XMP packet with IPTC's digital source type: wholly generated, or made from a picture."""
    from_picture = request.image(ImageRole.INIT) is not None
    kind = "compositeWithTrainedAlgorithmicMedia" if from_picture else "trainedAlgorithmicMedia"
    kind = _TOOL_KINDS.get(request.mode, kind)
    return _XMP.format(source_type=_SOURCE_TYPES + kind)
