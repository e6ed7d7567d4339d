"""Whether a result is signed (C2PA): what a request asks for and what the installation offers."""

from jobs.request import OutputOptions
from jobs.settings import Settings

DOCUMENTATION = "docs/provenance.md"


def wanted(output: OutputOptions, settings: Settings) -> bool:
    """Whether a result asked for like this is to be signed here."""
    if settings.provenance == "required":
        return True
    if output.provenance is None:
        return settings.provenance == "default"
    return output.provenance == "c2pa"


def refusal(output: OutputOptions, settings: Settings) -> tuple[str, str] | None:
    """The field, and what is wrong with it, of a request for what the installation does not offer."""
    if output.provenance == "c2pa" and settings.provenance == "off":
        return "provenance", (
            f"this server signs nothing: leave it out, or have its operator set REFILM_PROVENANCE ({DOCUMENTATION})"
        )
    if output.provenance == "none" and settings.provenance == "required":
        return "provenance", 'this server signs every result: leave it out, or ask for "c2pa"'
    if output.provenance_prompt and not wanted(output, settings):
        return "provenance_prompt", 'the prompt is told in signed results only: ask for provenance "c2pa" too'
    return None
