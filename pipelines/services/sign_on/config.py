"""Settings of single sign-on."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from dataengine.config import Config

RoleName = Literal["annotator", "curator", "engineer", "rater", "admin"]
Url = Annotated[str, StringConstraints(pattern=r"^(https?://[^\s?#]+)?$")]


class SignOnConfig(Config):
    """An OpenID Connect provider, and what its people may do here.

    The client's secret is read from the environment variable `CLINIC_OIDC_SECRET`, or from the file that
    `CLINIC_OIDC_SECRET_FILE` names; it is no setting, so that it is printed nowhere.
    """

    issuer: Url = ""
    """The provider's issuer, as in its discovery document: "https://sso.example.org/realms/team". Empty turns
    single sign-on off."""
    client_id: str = ""
    """The id under which this server is registered at the provider."""
    name: Annotated[str, StringConstraints(min_length=1, max_length=40)] = "single sign-on"
    """The provider's name, for the button on the sign-in page."""
    scopes: tuple[str, ...] = ("openid", "profile", "email")
    """What is asked for at sign-in; "openid" is always among it."""
    groups_claim: str = "groups"
    """The claim that lists a person's groups; dots lead into nested ones ("realm_access.roles")."""
    roles_by_group: dict[str, tuple[RoleName, ...]] = Field(default={})
    """The roles of each group: {"clinic-annotators": ["annotator"], "clinic-leads": ["curator", "admin"]}."""
    default_roles: tuple[RoleName, ...] = ()
    """Roles of everybody whom the provider lets in, whatever their groups."""
    first_admin: str = ""
    """The subject, or the verified e-mail address, of the person who becomes admin while nobody else is."""
    name_claim: str = "preferred_username"
    """The claim that a new account is named by; without it the e-mail address, then the subject."""
    end_provider_session: bool = True
    """After signing out here, lead to the provider's own sign-out where it offers one."""
    public_url: Url = ""
    """The address of this server in the browser, for the redirect back ("https://clinic.example.org"); empty
    takes it from the request."""
    leeway_seconds: float = Field(default=60.0, ge=0, le=300)
    """Seconds by which the clocks of provider and server may differ."""
    timeout_seconds: float = Field(default=5.0, gt=0, le=60)
    """Seconds within which the provider has to answer a request."""
