"""A loaded Stable Diffusion model: its networks, what else it may take, and where they are kept."""

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, ControlNetModel

from genserve.domain.model import ModelSpec, Offload
from genserve.domain.request import GenerationRequest
from genserve.errors import UnknownVae, VaeDoesNotFit
from genserve.pipelines import offloading, preview, sd_loading
from genserve.pipelines.base import BrokenModel
from genserve.pipelines.controlnets import ControlNets
from genserve.pipelines.placement import Placement
from genserve.pipelines.sd_loading import SHIPPED, Layout

_SD1_SCALING = 0.18215
_SAME_SCALING = 0.01
"""Relative. The families' scalings lie much farther apart: 0.18215, 0.13025, 1.5305."""
_SHARED_WITH_UNET = ("cross_attention_dim", "addition_embed_type")
"""What decides which text, and which sizes beside it, a ControlNet is told of."""


class SdParts:
    """One model of the families sd15, sdxl or sd3 in memory. Used by one thread."""

    def __init__(
        self, spec: ModelSpec, placement: Placement, layout: Layout, *, careful_vae: bool = False
    ) -> None:
        """Read the model.

        `careful_vae`: a VAE that says so (`force_upcast`) computes in float32 whatever the other
        networks do. Raises `BrokenModel`, or what the libraries raise.
        """
        self._spec = spec
        self._family = layout.family
        self._placement = placement
        self._careful_vae = careful_vae
        self._offload: Offload = placement.offload
        own_vae = sd_loading.config_of(spec.folder, layout, "vae")
        self._scaling = _scaling(sd_loading.read_json(own_vae / "config.json"))
        kept = dict.fromkeys(layout.networks, placement)
        kept["vae"] = self._placement_of_vae(own_vae)
        if spec.vae is not None:
            del kept["vae"]
        self._components = sd_loading.load(spec.folder, spec.base, kept, layout)
        if spec.vae is not None:
            self._components["vae"] = self._read_vae(spec.vae, placement.user)
        preview.use_decoder(self._components["vae"], spec, placement.read)
        self.trained: Mapping[str, Any] = self._components.pop("scheduler")
        self.controlnets = ControlNets(spec.controls, self._read_controlnet)
        self._borrower = object()
        self._borrowed: tuple[str, Any] | None = None
        self._in_tiles = False

    def __getitem__(self, name: str) -> Any:
        """A component by diffusers' name, None where the model has none."""
        return self._components[name]

    @property
    def fills_only(self) -> bool:
        """Its UNet takes a mask and the masked picture beside the latents, and needs them."""
        unet = self._components.get("unet")
        return unet is not None and unet.config.in_channels > unet.config.out_channels

    def networks(self) -> dict[str, Any]:
        """The networks alone, by diffusers' names, with the ControlNets that were read."""
        found = {
            name: part
            for name, part in self._components.items()
            if isinstance(part, torch.nn.Module)
        }
        return found | self.controlnets.networks()

    def components(self, request: GenerationRequest) -> dict[str, Any]:
        """What diffusers' pipelines are made of, with the VAE that the request names.

        Raises `UnknownVae`, `VaeDoesNotFit`.
        """
        return self._components | {"vae": self.vae(request)}

    def vae(self, request: GenerationRequest) -> Any:
        """The VAE that decodes the request's picture. The last one that was asked for is kept."""
        vae = self._vae_named(request.vae, request.model)
        _tile(vae, self._in_tiles)  # it may have been read while `tiled` was open
        return vae

    def _vae_named(self, name: str | None, model: str) -> Any:
        if name is None:
            return self._components["vae"]
        if name not in self._spec.vaes:
            raise UnknownVae(vae=name, available=[*self._spec.vaes])
        if self._borrowed is None or self._borrowed[0] != name:
            self._return_vae()
            try:
                read = self._read_vae(self._spec.vaes[name], self._borrower)
            except BrokenModel as broken:
                self._return_vae()
                raise VaeDoesNotFit(vae=name, model=model, reason=broken.reason) from None
            self._borrowed = (name, read)
        return self._borrowed[1]

    def _read_vae(self, source: Path, user: object) -> Any:
        """A VAE of a folder or a single file, for whoever it is. Raises `BrokenModel`."""
        if not source.exists():
            raise BrokenModel(f"{source.name} is missing")
        config = source if source.is_dir() else SHIPPED / self._family / "vae"
        placement = replace(self._placement_of_vae(config), user=user)
        if source.is_dir():
            read = placement.read(AutoencoderKL, source)
        else:
            read = placement.read_file(AutoencoderKL, source, config)
        network = self._components.get("unet") or self._components["transformer"]
        channels, needed = read.config.latent_channels, network.config.out_channels
        if channels != needed:
            raise BrokenModel(f"it has {channels} latent channels, not {needed}")
        scaling = _scaling(read.config)
        if not math.isclose(scaling, self._scaling, rel_tol=_SAME_SCALING):
            raise BrokenModel(f"it scales latents by {scaling}, not by {self._scaling}")
        return read

    def _read_controlnet(self, folder: Path) -> Any:
        """Raises `BrokenModel`, also for one that was trained beside another kind of model.

        That is told by its configuration, before gigabytes are read that would stay.
        """
        if folder.is_dir():  # else it is missing, which reading says
            self._check_controlnet(folder)
        return self._placement.read(ControlNetModel, folder)

    def _check_controlnet(self, folder: Path) -> None:
        settings = sd_loading.read_json(folder / "config.json")
        unet = self._components["unet"].config
        for name in _SHARED_WITH_UNET:
            setting = settings.get(name, signature(ControlNetModel).parameters[name].default)
            if _plain(setting) != _plain(unet[name]):
                raise BrokenModel(
                    f"{folder.name} is a ControlNet for another kind of model (its {name} is"
                    f" {setting}, the UNet's {unet[name]}); take one for this model"
                )

    def _placement_of_vae(self, config: Path) -> Placement:
        if not self._careful_vae:
            return self._placement
        careful = sd_loading.read_json(config / "config.json").get("force_upcast", True)
        return replace(self._placement, dtype=torch.float32) if careful else self._placement

    def _return_vae(self) -> None:
        self._borrowed = None
        self._placement.shelf.give_back(self._borrower)

    def drawing(self, pipe: Any) -> AbstractContextManager[None]:
        """While a pipeline draws, see `offloading.drawing`."""
        return _both(
            offloading.drawing(pipe, self._placement.device, self._offload), _never_cast(pipe.vae)
        )

    @contextmanager
    def tiled(self) -> Iterator[None]:
        """Decode in tiles and slices while it is open: seams are possible, seldom seen."""
        self._tile_all(True)
        try:
            yield
        finally:
            self._tile_all(False)

    def _tile_all(self, in_tiles: bool) -> None:
        self._in_tiles = in_tiles
        for vae in (self._components["vae"], *([self._borrowed[1]] if self._borrowed else [])):
            _tile(vae, in_tiles)

    def offloaded(self, how: Offload) -> AbstractContextManager[None] | None:
        """See `Pipeline.offloaded`."""
        if self._placement.device == "cpu":
            return None
        device = self._placement.device
        held = offloading.moved_out(self._all_networks, device, self._offload, how)
        return None if held is None else self._waiting(held, how)

    def _all_networks(self) -> list[Any]:
        return [*self.networks().values(), *([self._borrowed[1]] if self._borrowed else [])]

    @contextmanager
    def _waiting(self, held: AbstractContextManager[None], how: Offload) -> Iterator[None]:
        before = self._offload
        with held:
            self._offload = how
            try:
                yield
            finally:
                self._offload = before

    def alone_bytes(self) -> int:
        """What no other model holds too."""
        shelf = self._placement.shelf
        return shelf.alone_bytes(self._placement.user) + shelf.alone_bytes(self._borrower)

    def give_back(self) -> None:
        """Return everything to the shelf."""
        self._return_vae()
        self._placement.shelf.give_back(self._placement.user)


def _tile(vae: Any, in_tiles: bool) -> None:
    if in_tiles:
        vae.enable_tiling()
        vae.enable_slicing()
    else:
        vae.disable_tiling()
        vae.disable_slicing()


def _scaling(config: Mapping[str, Any]) -> float:
    """A VAE's; where it does not say, diffusers takes that of Stable Diffusion 1."""
    return float(config.get("scaling_factor") or _SD1_SCALING)


def _plain(setting: Any) -> Any:
    """What a setting says of every block, given once or for each of them."""
    several = isinstance(setting, list | tuple)
    return setting[0] if several and len(set(setting)) == 1 else setting


@contextmanager
def _both(*contexts: AbstractContextManager[None]) -> Iterator[None]:
    with ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context)
        yield


@contextmanager
def _never_cast(vae: Any) -> Iterator[None]:
    """The VAE keeps its numbers while it is open, whatever a pipeline wants.

    diffusers' SDXL pipelines cast the VAE to float32 to encode a picture, and then, for good, to
    what the UNet computes in: to float16, in which SDXL's VAE overflows. Ours is in the numbers
    that it needs from the beginning.
    """
    move = vae.to

    def stay(*args: Any, **kwargs: Any) -> Any:
        casts = "dtype" in kwargs or any(isinstance(arg, torch.dtype) for arg in args)
        return vae if casts else move(*args, **kwargs)

    vae.to = stay
    try:
        yield
    finally:
        del vae.to
