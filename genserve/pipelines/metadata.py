"""What a picture says about itself: A1111's parameters text, and the IPTC mark "made by AI".

The text is what Stable Diffusion WebUI and Forge write and read (processing.py,
create_infotext): prompt, negative prompt, one line of `Key: value` pairs. No time and no id in
it, so that the same request and seed give the same bytes.
"""

import json

import genserve
from genserve.domain.model import ModelSpec
from genserve.domain.request import GenerationRequest, ImageRole

_SAMPLERS = {"euler": "Euler", "heun": "Heun"}
_SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
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
) -> str:
    """The A1111 text of one picture. `native` is the size in pixels that was drawn."""
    lines = [request.prompt.replace("\0", "")]
    if request.negative_prompt:
        lines.append(f"Negative prompt: {request.negative_prompt}".replace("\0", ""))
    pairs = _pairs(request, spec, seed, native, distilled_guidance)
    lines.append(", ".join(f"{name}: {_quoted(value)}" for name, value in pairs.items()))
    return "\n".join(lines)


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
        "Sampler": _SAMPLERS.get(scheduler, scheduler),
        "CFG scale": "1" if distilled_guidance else f"{request.guidance:g}",
    }
    if distilled_guidance:  # Forge's name for guidance that the network takes as an input
        pairs["Distilled CFG Scale"] = f"{request.guidance:g}"
    pairs |= {
        "Seed": str(seed),
        "Size": f"{request.width}x{request.height}",
        "Model": request.model,
    }
    if request.image(ImageRole.INIT) is not None:
        pairs["Denoising strength"] = f"{request.strength:g}"
    if spec.id != request.model:
        pairs["Served by"] = spec.id
    if native != (request.width, request.height):
        pairs["Native size"] = f"{native[0]}x{native[1]}"
    pairs["Version"] = f"GenServe {genserve.__version__}"
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
    return _XMP.format(source_type=_SOURCE_TYPES + kind)
