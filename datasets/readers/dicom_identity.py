"""Which headers of a DICOM file can tell who the patient is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .dicom import parsing, read_dataset

IDENTIFYING: dict[str, tuple[str, ...]] = {
    "patient": (
        "AdditionalPatientHistory", "MedicalRecordLocator", "MilitaryRank",
        "OtherPatientIDs", "OtherPatientIDsSequence", "OtherPatientNames", "PatientAddress",
        "PatientBirthDate", "PatientBirthName", "PatientBirthTime", "PatientComments",
        "PatientID", "PatientInsurancePlanCodeSequence", "PatientMotherBirthName", "PatientName",
        "PatientReligiousPreference", "PatientTelephoneNumbers", "PatientTelecomInformation",
        "PersonAddress", "PersonName", "PersonTelephoneNumbers", "RegionOfResidence",
        "ResponsibleOrganization", "ResponsiblePerson", "CurrentPatientLocation",
        "PatientInstitutionResidence", "CountryOfResidence", "EthnicGroup", "Occupation",
    ),
    "staff": (
        "AdmittingDiagnosesDescription", "ConsultingPhysicianName", "ContentCreatorName",
        "NameOfPhysiciansReadingStudy", "OperatorsName", "PerformingPhysicianName",
        "PhysiciansOfRecord", "ReferringPhysicianAddress", "ReferringPhysicianName",
        "ReferringPhysicianTelephoneNumbers", "RequestingPhysician", "ReviewerName",
        "ScheduledPerformingPhysicianName", "VerifyingObserverName",
    ),
    "place": (
        "DeviceSerialNumber", "InstitutionAddress", "InstitutionName",
        "InstitutionalDepartmentName", "RequestingService", "StationName",
    ),
    "number": (
        "AccessionNumber", "AdmissionID", "IssuerOfAdmissionID", "IssuerOfPatientID", "StudyID",
    ),
}  # fmt: skip
"""Main attributes that the Basic Application Level Confidentiality Profile removes or replaces
(DICOM PS3.15, table E.1-1), by whom or what they tell of. Dates and identifiers (UIDs), which it
replaces too, are in every file and are not listed."""

_PSEUDONYMOUS = ("PatientID", "PatientName", "AccessionNumber", "StudyID")
_EMPTY_WORDS = ("", "na", "none", "null", "unknown", "removed", "redacted", "deidentified")


def identifying_headers(data: Any) -> dict[str, str]:
    """Return headers that hold something identifying, also inside sequences.

    A name or number that the file declares a pseudonym (PatientIdentityRemoved is YES) counts only
    if it has the parts of a person's name; so does one that equals the patient's identifier.

    Args:
        data: pydicom's dataset, or a file.

    Returns:
        Keyword to "patient", "staff", "place", "number", or "picture" for text burned into pixels;
        never a value. An empty dictionary does not prove that nobody can be identified: free text,
        private headers and a face in the voxels are not judged.

    Raises:
        DataError: when the file cannot be read.
    """
    if isinstance(data, str | Path):
        data = read_dataset(Path(data))
    groups = {name: group for group, names in IDENTIFYING.items() for name in names}
    found: dict[str, str] = {}
    with parsing(Path(str(getattr(data, "filename", "") or "dataset"))):
        removed = str(data.get("PatientIdentityRemoved") or "").upper() == "YES"
        for element in data.iterall():
            if element.keyword in groups and _tells(element, removed):
                found[element.keyword] = groups[element.keyword]
        if str(data.get("BurnedInAnnotation") or "").upper() == "YES":
            found["BurnedInAnnotation"] = "picture"
    return dict(sorted(found.items()))


def _tells(element: Any, removed: bool) -> bool:
    if element.VR == "SQ":
        return False  # its items are visited on their own
    text = str(element.value if element.value is not None else "").strip()
    word = "".join(letter for letter in text.lower() if letter.isalnum())
    if word in _EMPTY_WORDS or word.startswith("anon"):
        return False
    if element.keyword in _PSEUDONYMOUS and removed:
        return element.keyword == "PatientName" and any(mark in text for mark in "^ ,")
    return True
