"""Pictures in and out of a worker: reading inputs, sizes, and encoding with what they say."""

import base64
import io
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops, ImageFilter, ImageOps, PngImagePlugin

from genserve.domain.model import ModelSpec
from genserve.domain.request import GenerationRequest, ImageRole, Output
from genserve.pipelines.base import UnusablePicture

MEDIA_TYPES = {"png": "image/png", "jpg": "image/jpeg", "webp": "image/webp"}
_PIL_FORMATS = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}
_USER_COMMENT, _EXIF_IFD = 0x9286, 0x8769
_PNG_LEVEL = 1
"""A third of the time of zlib's default level 6 for at most a tenth more bytes."""
_EDGE_RADIUS, _EDGE_PERCENT = 1.2, 400
"""Chosen by eye on the tiny model's drawings. The radius is in pixels of the small picture."""

_RESAMPLING = {role: Image.Resampling.LANCZOS for role in ImageRole} | {
    ImageRole.MASK: Image.Resampling.BILINEAR  # what is black stays black: it does not overshoot
}

_PREVIEW_SIDE, _PREVIEW_QUALITY = 256, 75

Size = tuple[int, int]


def drawing_size(spec: ModelSpec, asked: Size) -> Size:
    """The size to draw at for a picture of `asked` pixels (width, height).

    A model that may be enlarged draws what is larger than its native number of pixels in the one
    of its trained sizes whose shape is nearest (by the logarithm of the aspect ratio, so that
    2:1 and 1:2 are equally far from a square).
    """
    native_pixels = spec.native_pixels
    if not spec.upscale or native_pixels is None or asked[0] * asked[1] <= native_pixels:
        return asked
    side = max(spec.capabilities.multiple_of, _near(math.sqrt(native_pixels), spec))
    sizes = spec.buckets or ((side, side),)
    shape = math.log(asked[0] / asked[1])
    return min(sizes, key=lambda size: abs(math.log(size[0] / size[1]) - shape))


def _near(side: float, spec: ModelSpec) -> int:
    multiple = spec.capabilities.multiple_of
    return int(side) // multiple * multiple


def read_inputs(
    request: GenerationRequest, files: Mapping[str, str], drawn: Size
) -> dict[ImageRole, Image.Image]:
    """The request's pictures at the size that is drawn: the mask in L, the others in RGB.

    A picture of another shape than what is asked for is cropped around its middle, never
    stretched (A1111's "crop and resize"); transparent parts become white. Where the drawn size
    has another shape than the asked one, it is squeezed as much as `enlarge` will stretch it.
    A reference is shown, not drawn over: it keeps its size and shape.
    Raises `OSError` when a file is gone or no picture.
    """
    asked = (request.width or drawn[0], request.height or drawn[1])
    inputs: dict[ImageRole, Image.Image] = {}
    for image in request.images:
        picture = _open(files[image.file.sha256])
        if image.role is not ImageRole.REFERENCE:
            resample = _RESAMPLING[image.role]
            picture = _fitted(picture, asked, image.role).resize(drawn, resample)
        inputs[image.role] = picture
    return inputs


def keeper(
    request: GenerationRequest, files: Mapping[str, str], asked: Size
) -> Callable[[Image.Image], Image.Image]:
    """What puts the caller's own pixels back where the mask is black, at the size asked for.

    A network's decoder changes every pixel a little, also those it was told to keep. Where the mask
    is grey, both are mixed. Raises `OSError` as `read_inputs` does.
    """
    own, mask = (
        _fitted(_open(files[image.file.sha256]), asked, image.role)
        for image in (request.image(ImageRole.INIT), request.image(ImageRole.MASK))
        if image is not None
    )
    return lambda picture: Image.composite(picture, own, mask)


def _open(path: str) -> Image.Image:
    with Image.open(Path(path), formats=("PNG", "JPEG", "WEBP")) as opened:
        return _flat(opened)


def _fitted(image: Image.Image, size: Size, role: ImageRole) -> Image.Image:
    """Cropped around the middle to the shape and enlarged or reduced to the size."""
    kind = "L" if role is ImageRole.MASK else "RGB"
    return ImageOps.fit(image, size, _RESAMPLING[role]).convert(kind)


def _flat(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    ground = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(ground, image.convert("RGBA")).convert("RGB")


def enlarge(image: Image.Image, asked: Size, *, stretch: bool) -> Image.Image:
    """The picture at exactly `asked` pixels, with edges as crisp as a drawing's.

    Cropped around its middle where the shape differs, so that circles stay round; with `stretch`
    pulled into shape instead, which takes back the squeezing of `read_inputs`.

    Lanczos alone is as soft as the enlargement is large. So edges are steepened by unsharp
    masking, and what that overshoots is cut off at the darkest and brightest of the neighbouring
    original pixels: no halos, and flat colours stay as they are.
    """
    if image.size == asked:
        return image

    def grow(part: Image.Image, filter_: Image.Resampling) -> Image.Image:
        return part.resize(asked, filter_) if stretch else ImageOps.fit(part, asked, filter_)

    grown = grow(image, Image.Resampling.LANCZOS)
    scale = max(asked[0] / image.width, asked[1] / image.height)
    if scale <= 1:
        return grown
    steep = grown.filter(ImageFilter.UnsharpMask(_EDGE_RADIUS * scale, _EDGE_PERCENT, threshold=0))
    darkest = grow(image.filter(ImageFilter.MinFilter(3)), Image.Resampling.BILINEAR)
    brightest = grow(image.filter(ImageFilter.MaxFilter(3)), Image.Resampling.BILINEAR)
    return ImageChops.lighter(ImageChops.darker(steep, brightest), darkest)


def refuse_constant(image: Image.Image) -> None:
    """Raise `UnusablePicture` when every pixel is the same: what a failed decoder leaves.

    Only an exactly constant picture counts. A diffusion model's "plain white background" still
    differs in single pixels, and a threshold would refuse pictures that somebody asked for.
    """
    bands = image.getextrema()
    flat = bands if isinstance(bands[0], tuple) else (bands,)
    if all(low == high for low, high in flat):
        raise UnusablePicture("every pixel is the same")


def encode(image: Image.Image, output: Output, parameters: str, xmp: str) -> bytes:
    """The file. `parameters` and `xmp` are left out when the request turned metadata off."""
    buffer = io.BytesIO()
    options: dict[str, Any] = {}
    if output.format == "png":
        options |= {"compress_level": _PNG_LEVEL}
        if output.metadata:
            options["pnginfo"] = _png_text(parameters, xmp)
    else:
        options |= {"quality": output.quality}
        if output.metadata:
            options |= {"exif": _exif(parameters), "xmp": xmp.encode()}
    image.save(buffer, _PIL_FORMATS[output.format], **options)
    return buffer.getvalue()


def small_jpeg(image: Image.Image) -> str:
    """A preview as a data URI. At most 256 pixels on a side: some ten kilobytes."""
    image.thumbnail((_PREVIEW_SIDE, _PREVIEW_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_PREVIEW_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _png_text(parameters: str, xmp: str) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", parameters)  # tEXt where Latin-1 can say it, iTXt otherwise
    info.add_itxt("XML:com.adobe.xmp", xmp)
    return info


def _exif(parameters: str) -> bytes:
    """EXIF with the text as UserComment, in the form that A1111 and Civitai read."""
    exif = Image.Exif()
    exif.get_ifd(_EXIF_IFD)[_USER_COMMENT] = b"UNICODE\0" + parameters.encode("utf-16-be")
    return exif.tobytes()
