"""The conflict table holds every row of the wire contract, and nothing is done without a row."""

import re
from pathlib import Path

import pytest

from registration.api.app import application
from registration.api.command_table import COMMAND_ROUTES
from registration.domain.contract import (
    RULES,
    Offline,
    Operation,
    Policy,
    Touch,
    Version,
    rule_for,
    rules_for,
    table,
)
from registration.domain.handlers import HANDLERS
from registration.settings import Settings

SERVER, LOCK, APPEND = (
    "server_authoritative",
    "server_authoritative + optimistic lock",
    "append_only",
)
PERMITTED, WITH_VERSION, ON_SYNC, CONFIRM, ONLINE = (
    "permitted",
    "permitted with version",
    "permitted, validated on sync",
    "needs online confirmation",
    "online only",
)

# operation, case, resource, policy, version needed, offline, from: section 2, row by row
# ruff: noqa: E501  (a row is a line)
CONTRACT = [
    ("patient.register", "", "PatientAggregate", SERVER, "no", PERMITTED, "seed"),
    ("patient.update_demographics", "", "PatientAggregate", LOCK, "stream", WITH_VERSION, "seed"),
    ("patient.add_identifier", "", "PatientIdentifier", SERVER, "no", PERMITTED, "seed"),
    ("patient.retire_identifier", "", "PatientIdentifier", SERVER, "no", PERMITTED, "house"),
    ("patient.add_name", "", "PatientName", SERVER, "no", PERMITTED, "seed"),
    ("patient.replace_name", "", "PatientName", SERVER, "no", PERMITTED, "house"),
    ("patient.retire_name", "", "PatientName", SERVER, "no", PERMITTED, "house"),
    ("patient.add_next_of_kin", "", "NextOfKinEntry", APPEND, "no", PERMITTED, "seed"),
    ("patient.remove_next_of_kin", "", "NextOfKinEntry", SERVER, "stream", WITH_VERSION, "both"),
    ("patient.set_consent", "", "ConsentFlag", SERVER, "flag", WITH_VERSION, "both"),
    ("patient.set_portrait", "", "PatientPortrait", SERVER, "no", ONLINE, "seed"),
    ("patient.remove_portrait", "", "PatientPortrait", SERVER, "no", ONLINE, "house"),
    ("patient.set_extension", "", "PatientExtensionInstance", LOCK, "instance", WITH_VERSION, "seed"),
    ("patient.remove_extension", "", "PatientExtensionInstance", LOCK, "instance", WITH_VERSION, "seed"),
    ("patient.record_death", "", "PatientAggregate", SERVER, "stream", ONLINE, "seed"),
    ("patient.reverse_death", "", "PatientAggregate", SERVER, "stream", ONLINE, "seed"),
    ("encounter.open", "", "EncounterAggregate", SERVER, "no", PERMITTED, "house"),
    ("encounter.transition", "planned→arrived", "EncounterAggregate", LOCK, "stream", ON_SYNC, "seed"),
    ("encounter.transition", "between other non-terminal states", "EncounterAggregate", LOCK, "stream", ON_SYNC, "house"),
    ("encounter.transition", "in-progress→finished", "EncounterAggregate", LOCK, "stream", CONFIRM, "seed"),
    ("encounter.transition", "to any other terminal state, and reopen", "EncounterAggregate", LOCK, "stream", CONFIRM, "house"),
    *(
        (f"mpi.{what}", "", "MPI merge decisions", SERVER, "both", ONLINE, "seed")
        for what in ("propose_merge", "approve_merge", "reject_merge", "unmerge", "dismiss_candidate")
    ),
    ("extension_schema.publish", "", "extension schema registry", SERVER, "no", ONLINE, "house"),
    *(
        (f"erasure.{what}", "", "erasure request", SERVER, "no", ONLINE, "house")
        for what in ("request", "approve", "refuse")
    ),
]  # fmt: skip
VERSIONS = {
    "no": Version.NONE,
    "stream": Version.STREAM,
    "flag": Version.CONSENT_FLAG,
    "instance": Version.EXTENSION_INSTANCE,
    "both": Version.BOTH_PATIENTS,
}


def test_the_table_is_the_contracts_row_by_row() -> None:
    rows = [
        (
            rule.operation.value,
            rule.case,
            rule.resource.value,
            rule.policy.value,
            {version: name for name, version in VERSIONS.items()}[rule.version],
            rule.offline.value,
            {"seed / house": "both"}.get(rule.source.value, rule.source.value),
        )
        for rule in RULES
    ]
    assert rows == CONTRACT


def test_every_operation_has_a_rule_and_every_handler_an_operation() -> None:
    assert {rule.operation for rule in RULES} == set(Operation)
    assert set(HANDLERS) <= set(Operation)
    for operation in Operation:
        rules = rules_for(operation)
        assert rule_for(operation) is rules[0]
        # what the gate asks before it knows the case is the same in every case
        assert len({(r.scope, r.version, r.policy, r.collides) for r in rules}) == 1
        assert len({rule.case for rule in rules}) == len(rules)


def test_every_handler_has_one_route_and_every_route_a_handler() -> None:
    assert sorted(route.operation for route in COMMAND_ROUTES) == sorted(HANDLERS)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.operation.value} {rule.case}")
def test_a_rule_agrees_with_itself(rule) -> None:
    # the versions of both patients stand in the payload
    assert rule.needs_version == (rule.version not in (Version.NONE, Version.BOTH_PATIENTS))
    if rule.policy is Policy.SERVER_AUTHORITATIVE_LOCK:
        assert rule.needs_version
    if rule.offline is Offline.PERMITTED_WITH_VERSION:
        assert rule.needs_version
    if rule.policy is Policy.APPEND_ONLY:
        assert rule.collides == {Touch.MERGE}
    if rule.operation.value.startswith("patient.") and rule.operation.value != "patient.register":
        assert Touch.MERGE in rule.collides
    assert re.fullmatch(r"[a-z_]+:[a-z]+", rule.scope)


def test_demographics_collide_with_who_somebody_is_and_with_nothing_else() -> None:
    assert rule_for(Operation.UPDATE_DEMOGRAPHICS).collides == {
        Touch.DEMOGRAPHICS,
        Touch.NAMES,
        Touch.IDENTIFIERS,
        Touch.VITAL_STATUS,
        Touch.MERGE,
    }


def test_the_openapi_document_says_what_the_table_says() -> None:
    document = application(Settings.model_construct()).openapi()
    operations = {
        operation["operationId"]: operation
        for item in document["paths"].values()
        for operation in item.values()
    }
    for route in COMMAND_ROUTES:
        rule, shown = rule_for(route.operation), operations[route.operation.value]
        assert shown["x-conflict-policy"] == rule.policy.value
        offline = [row.offline.value for row in rules_for(route.operation)]
        assert shown["x-offline"] == (offline if len(offline) > 1 else offline[0])
        assert shown["x-required-scope"] == rule.scope
        assert shown["x-version-required"] == rule.needs_version
        states_versions = rule.needs_version or route.operation is Operation.PROPOSE_MERGE
        assert ("428" in shown["responses"]) == states_versions


def test_the_documentation_page_holds_every_row() -> None:
    page = (Path(__file__).parents[2] / "docs" / "policy-table.md").read_text(encoding="utf-8")
    for row in table():
        assert f"`{row['operation']}`" in page
        assert str(row["offline"]) in page
        assert str(row["case"] or "") in page
