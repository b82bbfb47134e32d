-- SPDX-License-Identifier: Apache-2.0
BEGIN TRANSACTION;
CREATE TABLE budget (
    identity TEXT NOT NULL,
    knob TEXT NOT NULL,
    day INTEGER NOT NULL,      -- since 1970, UTC
    tests INTEGER NOT NULL,
    carried REAL NOT NULL,
    PRIMARY KEY (identity, knob)
) STRICT
;
INSERT INTO "budget" VALUES('4095:1048575','block.read_ahead_kb',20833,2,0.01);
CREATE TABLE experiment (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    state TEXT NOT NULL,       -- running, ended, interrupted
    kind TEXT NOT NULL,        -- trial, recheck, by hand, by module, or unmeasured: none
    time REAL NOT NULL,        -- seconds since 1970, as ended
    ended REAL,
    boot TEXT NOT NULL,
    pid INTEGER NOT NULL,
    start INTEGER NOT NULL,    -- of the process, in ticks since boot
    instance TEXT NOT NULL,
    module TEXT NOT NULL,
    backend TEXT NOT NULL,
    target TEXT NOT NULL,
    identity TEXT NOT NULL,
    knob TEXT NOT NULL,
    incumbent TEXT NOT NULL,   -- JSON, as are candidate, evidence and record
    candidate TEXT NOT NULL,
    metric TEXT NOT NULL,      -- name of the outcome that it went by, and its unit
    unit TEXT NOT NULL,
    context TEXT NOT NULL,
    reason TEXT NOT NULL,      -- of the recommendation
    evidence TEXT NOT NULL,
    rec_id INTEGER NOT NULL,
    change INTEGER NOT NULL,   -- of the journal
    detectable REAL,
    outcome TEXT NOT NULL DEFAULT '',
    why TEXT NOT NULL DEFAULT '',
    kept INTEGER NOT NULL DEFAULT 0,
    ratio REAL,
    low REAL,
    high REAL,
    pairs INTEGER NOT NULL DEFAULT 0,
    record TEXT NOT NULL DEFAULT 'null'
) STRICT;
INSERT INTO "experiment" VALUES(1,'ended','trial',1800000000.0,1800000000.0,'the boot',8671,3196930,'readahead@sim0','readahead','bpf','sim0','4095:1048575','block.read_ahead_kb','8192','16','requests','','','mostly random','{"windows": 3}',0,0,0.05,'gain','',1,1.2,1.1,1.3,8,'{"outcome": "gain", "reason": "", "detectable": 0.05, "blocks": [[1.0, 2.0]], "interval": {"ratio": 1.2, "low": 1.1, "high": 1.3, "pairs": 8}}');
INSERT INTO "experiment" VALUES(2,'running','trial',1800000000.0,NULL,'the boot',8671,3196930,'readahead@sim0','readahead','bpf','sim0','4095:1048575','block.read_ahead_kb','8192','64','requests','','','mostly random','{"windows": 3}',0,0,NULL,'','',0,NULL,NULL,NULL,0,'null');
CREATE INDEX experiment_same ON experiment (module, identity, knob, context, id);
CREATE INDEX experiment_running ON experiment (instance) WHERE state = 'running';
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('experiment',2);
COMMIT;
PRAGMA user_version = 1;
