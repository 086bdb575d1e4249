from tests.client.given import *


def test_smoke(site, device):
    v = device.register(ADA_OKORO)
    device.add_next_of_kin(v.id, CHIDI)
    device.update_demographics(v.id, {"birthDate": "1984"})
    e = device.open_encounter(v.id, {"class": "AMB"})
    e = device.transition(e.id, "arrived")
    e = device.transition(e.id, "in-progress")
    e = device.transition(e.id, "finished")
    device.set_consent(v.id, "research", GRANTED)
    print(e.body)
    print([x.id for x in device.search("okoro")])
    r = device.sync()
    print(r, site.slept, [r.headers for r in site.network.seen][-1])
    print(told(device.history()), [m.problem for m in device.history()])
    print(device.review())
    [i] = device.review()
    print(device.confirm(i))
    print(device.patient(v.id).pending)
    print(device.status())
    assert 0
