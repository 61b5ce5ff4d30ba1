"""A model's ControlNets in memory: each is read when a request first asks for it, and stays then.

One is a third of its model or more, and most pictures need none.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from genserve.domain.request import Control, ControlType, GenerationRequest, ImageRole, Mode
from genserve.errors import UnsupportedControl


def control_of(request: GenerationRequest) -> Control:
    """What the request says of its control picture."""
    image = request.image(ImageRole.CONTROL)
    return (image.control if image is not None else None) or Control()


class ControlNets:
    """The ControlNets of one loaded model. Several control types may share a folder."""

    def __init__(self, folders: Mapping[ControlType, Path], read: Callable[[Path], Any]) -> None:
        """`read` makes the network of a folder, or finds it on the shelf."""
        self._folders = folders
        self._read = read
        self._loaded: dict[Path, Any] = {}

    def __bool__(self) -> bool:
        return bool(self._folders)

    def of(self, request: GenerationRequest) -> Any:
        """The one that the request asks for: the first where it does not say.

        Read now unless it was before. Raises `UnsupportedControl`, or as reading does.
        """
        kind = control_of(request).type or next(iter(self._folders))
        if kind not in self._folders:
            raise UnsupportedControl(model=request.model, control=kind, supported=[*self._folders])
        folder = self._folders[kind]
        if folder not in self._loaded:
            self._loaded[folder] = self._read(folder)
        return self._loaded[folder]

    def lacking(self, request: GenerationRequest) -> dict[Path, Callable[[], object]]:
        """See `Pipeline.lacking`."""
        if request.mode is not Mode.CONTROLNET or not self._folders:
            return {}
        kind = control_of(request).type or next(iter(self._folders))
        folder = self._folders.get(kind)  # None: it is refused when it is drawn
        if folder is None or folder in self._loaded:
            return {}
        return {folder: lambda: self.of(request)}

    def networks(self) -> dict[str, Any]:
        """Those that were read, by diffusers' name; where there are several, with their types."""
        several = len(set(self._folders.values())) > 1
        return {
            f"controlnet_{kind}" if several else "controlnet": self._loaded[folder]
            for kind, folder in self._folders.items()
            if folder in self._loaded
        }
