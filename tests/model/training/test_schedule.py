"""When the learning rate drops, and when a run ends."""

from alexprep.model.training.schedule import SCRIPT, Phase, Plateau, Timetable, drops_at


def test_the_script_is_the_authors_at_95_epochs():
    """Spec section 4: drops at 22, 49 and 81; colour off and conv1 / 10 at 66; conv1 frozen at 73; the end at 95."""
    script = Timetable(0.01, 95, SCRIPT)
    phases = [script.phase(epoch) for epoch in range(95)]
    changes = [(epoch, phase) for epoch, phase in enumerate(phases) if epoch == 0 or phase != phases[epoch - 1]]

    assert changes == [
        (0, Phase(0.01)),
        (22, Phase(0.001)),
        (49, Phase(0.0001)),
        (66, Phase(0.0001, 0.1, False)),
        (73, Phase(0.0001, 0.0, False)),
        (81, Phase(0.00001, 0.0, False)),
    ]
    assert (script.finished(94), script.finished(95)) == (False, True)


def test_no_event_comes_before_the_first_epoch_however_short_the_run():
    assert Timetable(0.01, 1, SCRIPT).phase(0) == Timetable(0.01, 2, SCRIPT).phase(0) == Phase(0.01)


def test_a_shorter_script_keeps_its_shares():
    script = Timetable(0.01, 19, SCRIPT)

    assert [epoch for epoch in range(1, 19) if script.phase(epoch) != script.phase(epoch - 1)] == [4, 10, 13, 15, 16]


def test_fixed_drops_come_at_their_shares_of_the_run():
    table = Timetable(0.01, 10, drops_at([0.8, 0.35]))

    assert [table.phase(epoch) for epoch in range(10)] == [Phase(0.01)] * 4 + [Phase(0.001)] * 4 + [Phase(0.0001)] * 2


def test_the_plateau_divides_by_ten_three_times_and_then_ends():
    schedule, epoch, rates = Plateau(0.01, epochs=90, patience=2), 0, []
    for error in [0.9, 0.8, 0.8, 0.9, 0.7, 0.7, 0.7, 0.6, 0.6, 0.6, 0.6, 0.6]:
        if schedule.finished(epoch):
            break
        rates.append(schedule.phase(epoch).lr)
        copy = Plateau(0.01, epochs=90, patience=2)  # continuing from a checkpoint changes nothing
        copy.load_state_dict(schedule.state_dict())
        schedule = copy
        schedule.observe(error)
        epoch += 1

    assert rates == [0.01] * 4 + [0.001] * 3 + [0.0001] * 3 + [0.00001] * 2
    assert schedule.finished(epoch)
    assert Plateau(0.01, epochs=3, patience=2).finished(3)
