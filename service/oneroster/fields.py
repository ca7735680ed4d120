"""The fields of OneRoster's objects: which of them exist, and which the database can compare and sort by."""

from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from service.oneroster.objects import ORG_MODIFIED_AT, Organization, Version, write_instant

Kind: TypeAlias = Literal["org", "academicSession", "course", "class", "enrollment", "user"]

_REFERENCE: Final = ("href", "sourcedId", "type")
_COMMON: Final = ("sourcedId", "status", "dateLastModified")
_SCALARS: Final[dict[tuple[Kind, Version], str]] = {
    ("org", "v1p2"): "name type identifier",
    ("academicSession", "v1p2"): "title startDate endDate type schoolYear",
    ("course", "v1p2"): "title courseCode grades subjects subjectCodes",
    ("class", "v1p2"): "title classCode classType location grades subjects subjectCodes periods",
    ("enrollment", "v1p2"): "role primary beginDate endDate",
    ("user", "v1p2"): (
        "userMasterIdentifier username enabledUser givenName familyName middleName preferredFirstName "
        "preferredMiddleName preferredLastName pronouns identifier email sms phone grades password"
    ),
    ("user", "v1p1"): (
        "username enabledUser givenName familyName middleName role identifier email sms phone grades password"
    ),
}
"""The fields of the standard that are texts or lists of texts; those of 1.1 where they differ from 1.2."""

_REFERENCES: Final[dict[tuple[Kind, Version], str]] = {
    ("org", "v1p2"): "parent children",
    ("academicSession", "v1p2"): "parent children",
    ("course", "v1p2"): "schoolYear org resources",
    ("class", "v1p2"): "course school terms resources",
    ("enrollment", "v1p2"): "user class school",
    ("user", "v1p2"): "primaryOrg agents resources",
    ("user", "v1p1"): "orgs agents",
}

_NESTED: Final[dict[Version, str]] = {
    "v1p2": (
        "roles.roleType roles.role roles.org.href roles.org.sourcedId roles.org.type roles.userProfile roles.beginDate "
        "roles.endDate userIds.type userIds.identifier userProfiles.profileId userProfiles.profileType "
        "userProfiles.vendorId userProfiles.applicationId userProfiles.description"
    ),
    "v1p1": "userIds.type userIds.identifier",
}
"""The fields of the objects within a user, besides references."""

_DOCUMENTS: Final[dict[Kind, str]] = {
    "org": "",
    "academicSession": "title startDate endDate type schoolYear parent.sourcedId children.sourcedId",
    "course": "title courseCode",
    "class": "title classCode course.sourcedId terms.sourcedId",
    "enrollment": "role primary beginDate endDate class.sourcedId user.sourcedId",
    "user": ("username identifier enabledUser givenName familyName preferredFirstName email role roles.role"),
}
"""The fields that ``document`` of the statements in ``sql/oneroster.py`` has, besides those of all objects."""

LISTS: Final = frozenset({"children.sourcedId", "terms.sourcedId", "roles.role"})
"""The fields in lists, by which nothing can be sorted."""

DAYS: Final = frozenset({"startDate", "endDate", "beginDate"})


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields of a kind of object in one version, for one institution."""

    members: frozenset[str]
    """The members of the objects by the standard."""
    paths: frozenset[str]
    """The paths of the fields that filters may name."""
    document: frozenset[str]
    """The paths of the fields that the database compares."""
    constants: dict[str, str] = field(default_factory=dict)
    """The values of fields that all objects of the kind share, by path."""

    def has(self, path: str) -> bool:
        """Return whether a filter may name a path."""
        return path in self.paths or path.startswith("metadata.")

    def has_member(self, name: str) -> bool:
        """Return whether the standard has a member of the objects with a name."""
        return name == "metadata" or name in self.members


def fields_of(kind: Kind, version: Version, org: Organization) -> Fields:
    """Return the fields of a kind of object."""
    scalars = _SCALARS.get((kind, version)) or _SCALARS[kind, "v1p2"]
    references = _REFERENCES.get((kind, version)) or _REFERENCES[kind, "v1p2"]
    within = [f"{name}.{part}" for name in references.split() for part in _REFERENCE]
    nested = _NESTED[version].split() if kind == "user" else []
    common = _COMMON if kind != "org" else ()
    paths = frozenset((*_COMMON, *scalars.split(), *within, *nested))
    return Fields(
        members=frozenset(path.partition(".")[0] for path in paths),
        # Systems that have spoken 1.1 filter by the role of a user in 1.2 too.
        paths=paths | {"role"} if kind == "user" else paths,
        document=frozenset((*common, *_DOCUMENTS[kind].split())),
        constants=_constants_of(kind, org),
    )


def _constants_of(kind: Kind, org: Organization) -> dict[str, str]:
    def reference(name: str, sourced_id: str | None = None) -> dict[str, str]:
        types = {"user": "user", "class": "class", "course": "course", "terms": "academicSession"}
        values = {f"{name}.type": types.get(name, "org")}
        return values if sourced_id is None else {**values, f"{name}.sourcedId": sourced_id}

    match kind:
        case "org":
            return {
                "sourcedId": org.sourced_id,
                "status": "active",
                "dateLastModified": write_instant(ORG_MODIFIED_AT),
                "name": org.name,
                "type": "school",
                "identifier": org.identifier,
            }
        case "course":
            return reference("org", org.sourced_id)
        case "class":
            school = reference("school", org.sourced_id)
            return {"classType": "scheduled", **school, **reference("course"), **reference("terms")}
        case "enrollment":
            return {**reference("school", org.sourced_id), **reference("user"), **reference("class")}
        case "user":
            orgs = [reference(name, org.sourced_id) for name in ("roles.org", "primaryOrg", "orgs")]
            return {"roles.roleType": "primary", **orgs[0], **orgs[1], **orgs[2]}
        case "academicSession":
            return {}
