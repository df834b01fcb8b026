"""What the stores in SQL databases share.

::

    writes           the queue in front of the one thread that writes: group commit
    mailbox          what a mailbox's row says, and how it changes
    ageing           the SQL that says how far a history has aged
    epochs           the number that grows when a store was put back
    send_ids         what a repeated send_id gets
"""
