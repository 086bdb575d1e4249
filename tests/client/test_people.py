"""Several people at one device: each one's changes are sent with their own token."""

from tests.client.given import ADA_OKORO, CHIDI, Site, told


def test_each_sends_their_own_and_sees_that_others_wait(site: Site) -> None:
    device = site.device(sub="nurse-1")
    patient = device.register(ADA_OKORO)
    device.sign_in(site.token(sub="nurse-2"))
    assert device.patient(patient.id) is None
    own = device.register(ADA_OKORO)
    report = device.sync()
    assert (report.applied, report.waiting, report.others) == (1, 0, 1)
    device.sign_in(site.token(sub="nurse-1"))
    report = device.sync()
    assert (report.applied, report.waiting, report.others) == (1, 0, 0)
    actors = {
        site.desk().history({"id": its_id})[0]["actor"]: its_id for its_id in (patient.id, own.id)
    }
    assert actors == {"nurse-1": patient.id, "nurse-2": own.id}
    assert [m.subject for m in device.history()] == ["nurse-1", "nurse-2"]


def test_who_may_see_the_same_shares_what_was_pulled(site: Site) -> None:
    device = site.device(sub="nurse-1")
    patient = device.register(ADA_OKORO)
    device.sync()
    device.sign_in(site.token(sub="nurse-2"))
    assert device.patient(patient.id) is not None
    assert [view.id for view in device.search("okoro")] == [patient.id]
    device.add_next_of_kin(patient.id, CHIDI)
    assert device.sync().applied == 1
    device.sign_in(site.token(sub="nurse-1"))
    view = device.patient(patient.id)
    assert view is not None
    assert (view.version, view.pending) == (2, ())


def test_who_may_see_less_does_not_see_what_others_pulled(site: Site) -> None:
    device = site.device(sub="nurse-1")
    patient = device.register(ADA_OKORO)
    device.sync()
    device.sign_in(site.token(sub="clerk", scope="sync encounter:read"))
    assert device.patient(patient.id) is None
    assert device.search("okoro") == []


def test_what_one_pushed_and_another_pulled_is_laid_on_top_no_more(site: Site) -> None:
    device = site.device(sub="nurse-1")
    patient = device.register(ADA_OKORO)
    device.push()
    device.sign_in(site.token(sub="nurse-2"))
    device.pull(device.history()[0].position)
    device.sign_in(site.token(sub="nurse-1"))
    view = device.patient(patient.id)
    assert view is not None
    assert (view.version, view.pending) == (1, ())
    assert told(device.history()) == [("register", "applied")]
