"""Where the state is kept: checkpoints and ledger in the database of SUPERVISOR_STATE_URL.

Lives here: :mod:`.storage` (opens both), :mod:`.url` (what the setting may say), :mod:`.check` (whether the database
can be opened), :mod:`.postgres` (packages, connections and errors of Postgres), :mod:`.lakebase` (Postgres in
Databricks), :mod:`.retrying_saver` (checkpoints that outlast a restart of Postgres).

May import: ``errors`` of the app.
"""
