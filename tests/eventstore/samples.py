"""One event of each class, with every member that it can have."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from registration.domain import events
from registration.domain.events import EVENTS, Event
from registration.domain.resources import (
    Address,
    ContactPoint,
    Evidence,
    Identifier,
    Name,
    NextOfKin,
    Obstacle,
)

NAME = Name(
    id=UUID(int=1),
    use="official",
    family="Müller-Okoro",
    given=("Ada", "Ngozi"),
    prefix=("Dr",),
    suffix=("MD",),
    text="Dr Ada Ngozi Müller-Okoro MD",
    script="Latn",
    language="de-CH",
)
ARABIC = Name(id=UUID(int=2), use="usual", text="محمد", script="Arab")
PHONE = ContactPoint(system="phone", value="+49 30 123456", use="mobile")
ADDRESS = Address(
    use="home",
    text="Hauptstr. 1, 10115 Berlin",
    line=("Hauptstr. 1", "Hinterhaus"),
    city="Berlin",
    district="Mitte",
    state="BE",
    postal_code="10115",
    country="DE",
)
IDENTIFIER = Identifier(
    id=UUID(int=3), system="https://fhir.example/mrn", value="4711", type="MR", use="usual"
)
AT = datetime(2026, 3, 1, 12, 30, 15, 250000, tzinfo=UTC)
KIN = NextOfKin(
    id=UUID(int=4), name="Obi Okoro", relationship="brother", telecom=(PHONE,), address=ADDRESS
)

SAMPLES: dict[type[Event], Event] = {
    type(event): event
    for event in (
        events.PatientRegistered(
            names=(NAME, ARABIC),
            gender="female",
            birth_date="1980-02",
            birth_date_estimated=True,
            identifiers=(IDENTIFIER,),
            telecom=(PHONE,),
            addresses=(ADDRESS,),
            next_of_kin=(KIN,),
            facility="north",
            marital_status="M",
            preferred_language="ar",
        ),
        events.DemographicsCorrected(
            changes={
                "gender": "other",
                "birthDate": None,
                "birthDateEstimated": False,
                "telecom": [{"system": "email", "value": "ada@example.org"}],
            }
        ),
        events.NameAdded(name=ARABIC),
        events.NameReplaced(name=NAME),
        events.NameRetired(name_id=NAME.id, reason="married"),
        events.IdentifierAdded(identifier=IDENTIFIER),
        events.IdentifierRetired(identifier_id=IDENTIFIER.id, reason="card lost"),
        events.NextOfKinAdded(next_of_kin=KIN),
        events.NextOfKinRemoved(next_of_kin_id=KIN.id, reason="asked to"),
        *(
            kind(
                flag="research",
                policy="https://clinic.example/research-2",
                evidence=Evidence(kind="signature", reference="form 7", witness="Nurse Ola"),
                valid_from=AT,
                valid_until=AT + timedelta(days=365),
            )
            for kind in (
                events.ConsentGranted,
                events.ConsentRefused,
                events.ConsentWithdrawn,
            )
        ),
        events.PortraitSet(
            portrait_id=UUID(int=5),
            content_hash="ab" * 32,
            media_type="image/jpeg",
            width=768,
            height=1024,
            size=81920,
            retain_until=AT,
        ),
        events.PortraitRemoved(portrait_id=UUID(int=5), cause="requested", reason="asked to"),
        events.ExtensionSet(
            schema_name="housing",
            schema_version=2,
            data={"rooms": 3, "floor": None, "shared": True, "rent": 12.5, "with": ["Obi"]},
        ),
        events.ExtensionRemoved(schema_name="housing", reason="moved"),
        events.DeathRecorded(deceased_at=AT, cause="I21.9", certificate="D-4711"),
        events.DeathReversed(reason="wrong record"),
        events.PatientMergedAway(merge_id=UUID(int=7), survivor_id=UUID(int=8)),
        events.PatientAbsorbed(
            merge_id=UUID(int=7),
            patient_id=UUID(int=6),
            names=(ARABIC,),
            identifiers=(IDENTIFIER,),
        ),
        events.PatientRestored(merge_id=UUID(int=7)),
        events.PatientReleased(merge_id=UUID(int=7), patient_ids=(UUID(int=6), UUID(int=9))),
        events.MergeProposed(
            survivor_id=UUID(int=8),
            retired_id=UUID(int=6),
            survivor_version=3,
            retired_version=2,
            reason="the same passport",
            overridden=(Obstacle(kind="identifier", system="https://fhir.example/mrn"),),
            override_reason="registered twice by us",
        ),
        events.MergeApproved(survivor_version=3, retired_version=2),
        events.MergeExecuted(survivor_id=UUID(int=8), retired_id=UUID(int=6)),
        events.MergeRejected(reason="twins"),
        events.MergeReversed(
            survivor_id=UUID(int=8),
            retired_id=UUID(int=6),
            released_by=(UUID(int=8), UUID(int=9)),
            reason="twins after all",
        ),
        events.CandidateDismissed(
            patient_ids=(UUID(int=6), UUID(int=8)), evidence="5e1f", reason="father and son"
        ),
        events.EncounterOpened(
            at=AT,
            reason="cough",
            patient_id=UUID(int=6),
            encounter_class="AMB",
            status="planned",
            planned_start=AT + timedelta(days=1),
            facility="north",
            post_mortem=True,
        ),
        *(
            kind(at=AT, reason="because")
            for kind in EVENTS
            if issubclass(kind, events.EncounterEvent) and kind is not events.EncounterOpened
        ),
        events.PatientErased(erasure_id=UUID(int=10)),
        events.ErasureRequested(
            patient_id=UUID(int=8),
            patient_ids=(UUID(int=8), UUID(int=6)),
            basis="gdpr-17-1-b",
            reason="Ada Okoro asked for it",
        ),
        events.ErasureApproved(),
        events.ErasureRefused(reason="still in care"),
        events.ErasureShredded(patient_ids=(UUID(int=8), UUID(int=6))),
        events.ExtensionSchemaPublished(
            name="housing",
            title="Housing",
            compatibility="none",
            definition={"type": "object", "properties": {"rooms": {"type": "integer"}}},
        ),
    )
}
"""One event of each class with every member that it can have: what any version must decode to."""
