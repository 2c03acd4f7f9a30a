"""What a host can run, as values: no plugin code is needed to read it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from apexstream.core.errors import PluginFailed, UnknownAction
from apexstream.plugin import ActionSpec, PluginManager


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """One action of one plugin. ``streams``: it yields chunks as it goes, rather than one result at the end."""

    plugin: str
    spec: ActionSpec
    streams: bool


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All offers, and the plugins that could not be loaded with the reason."""

    offers: tuple[Offer, ...] = ()
    broken: Mapping[str, str] = field(default_factory=dict)

    def find(self, plugin: str, action: str) -> Offer:
        """The offer; raises :class:`PluginFailed` for a broken plugin, else :class:`UnknownAction` naming what there is."""
        for offer in self.offers:
            if offer.spec.name == action and offer.plugin == plugin:
                return offer
        own = [offer.spec.name for offer in self.offers if offer.plugin == plugin]
        if plugin in self.broken:
            raise PluginFailed(
                f"plugin {plugin} could not be loaded: {self.broken[plugin]}", where=plugin, hint="Mend or reinstall it"
            )
        if own:
            raise UnknownAction(f"plugin {plugin} has no action {action!r}", where="action", hint=_known(own))
        plugins = {offer.plugin for offer in self.offers}
        raise UnknownAction(f"no plugin named {plugin!r}", where="plugin", hint=_known(plugins))


def catalogue_of(plugins: PluginManager) -> Catalogue:
    """What ``plugins``, loaded in this process, offer."""
    offers = (
        Offer(plugin=name, spec=spec, streams=plugins.streams(name, spec.name)) for name, spec in plugins.actions()
    )
    return Catalogue(tuple(offers), dict(plugins.broken))


def _known(names: Iterable[str]) -> str:
    known = ", ".join(sorted(names))
    return f"Known here: {known}" if known else "There are none here"
