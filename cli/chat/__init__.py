"""`twinline chat`: a prompt that incoming mail never garbles; the same rules in a pipe.

``command`` chooses, ``start`` opens a session, ``conversation`` gives each line its meaning. In a
pipe ``lines`` is all there is. At a terminal ``live`` runs the ``prompt`` with its ``screen``,
``theme``, ``rows``, ``toolbar``, ``completion``, the ``outbox``, the ``unread`` counts, the
``history`` of what was typed, ``notify``, and ``renewal`` where the session ends.
"""
