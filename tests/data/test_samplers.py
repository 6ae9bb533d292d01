from data.samplers import OrderedBatches, ShuffledBatches


def epoch(rows=23, size=5, *, seed=0, number=1, start=0, rank=0, world=1):
    batches = ShuffledBatches(rows, size, seed=seed, rank=rank, world_size=world)
    batches.set_epoch(number, start)
    return list(batches)


def test_an_epoch_holds_every_row_once_at_its_own_position():
    batches = epoch()
    assert [len(batch) for batch in batches] == [5, 5, 5, 5, 3]
    samples = [sample for batch in batches for sample in batch]
    assert sorted(sample.row for sample in samples) == list(range(23))
    assert [sample.position for sample in samples] == list(range(23))
    assert {sample.epoch for sample in samples} == {1}


def test_order_is_a_function_of_seed_and_epoch():
    assert epoch() == epoch()
    rows = {tuple(s.row for batch in epoch(seed=seed, number=n) for s in batch) for seed in (0, 1) for n in (1, 2)}
    assert len(rows) == 4


def test_a_resumed_epoch_is_the_rest_of_the_epoch():
    assert epoch(start=2) == epoch()[2:]
    assert epoch(start=5) == []


def test_processes_share_each_global_batch():
    for number, whole in enumerate(epoch(rows=24, size=6)):
        parts = [epoch(rows=24, size=6, rank=rank, world=3)[number] for rank in range(3)]
        assert {len(part) for part in parts} == {2}
        assert sorted(sample for part in parts for sample in part) == sorted(whole)


def test_a_last_batch_smaller_than_the_processes_still_gives_everyone_a_sample():
    last = [epoch(rows=7, size=6, rank=rank, world=3)[-1] for rank in range(3)]
    assert [len(part) for part in last] == [1, 1, 1]
    assert len({part[0] for part in last}) == 1


def test_lengths_agree_with_what_is_yielded():
    for rows, size in ((23, 5), (20, 5), (1, 5)):
        batches = ShuffledBatches(rows, size, seed=0)
        assert len(list(batches)) == len(batches)


def test_evaluation_visits_each_row_once_whatever_the_number_of_processes():
    for world in (1, 2, 3, 9):
        parts = [OrderedBatches(7, 4, rank=rank, world_size=world) for rank in range(world)]
        rows = [sample.row for part in parts for batch in part for sample in batch]
        assert sorted(rows) == list(range(7))
        assert all(len(list(part)) == len(part) for part in parts)
