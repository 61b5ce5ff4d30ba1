"""Small pictures to send, and a look at those that come back."""

from base64 import b64decode, b64encode
from io import BytesIO

from PIL import Image


def png(width: int = 64, height: int = 64, colour: str = "red") -> bytes:
    """A PNG file of one colour."""
    buffer = BytesIO()
    Image.new("RGB", (width, height), colour).save(buffer, "PNG")
    return buffer.getvalue()


def uri(data: bytes, kind: str = "image/png") -> str:
    """`data` as a data URI."""
    return f"data:{kind};base64,{b64encode(data).decode()}"


def opened(data: bytes | str) -> Image.Image:
    """The picture in `data`, or in a data URI; fails when it cannot be decoded."""
    if isinstance(data, str):
        data = b64decode(data.partition(",")[2], validate=True)
    image = Image.open(BytesIO(data))
    image.load()
    return image
