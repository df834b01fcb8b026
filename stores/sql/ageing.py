"""The SQL that says how far a mailbox's history has aged."""


def aged(box: str, ends: str) -> str:
    """Return an expression for the seq up to which a mailbox's history has aged; 0 for none.

    Acks age in their order: one that aged behind one that has not waits for it, as time may have
    been set back between them.

    Args:
        box: the mailbox's number: a parameter, or a column with its table, as acks have one too.
        ends: the moment at or before which an ack has aged, as well.
    """
    return f"""coalesce((
    SELECT max(position) FROM acks WHERE box = {box} AND position < coalesce(
        (SELECT min(position) FROM acks WHERE box = {box} AND acked_at > {ends}),
        4611686018427387904)
), 0)"""  # noqa: S608 - what it is given is ours
