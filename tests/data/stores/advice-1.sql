-- SPDX-License-Identifier: Apache-2.0
BEGIN TRANSACTION;
CREATE TABLE advice (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    state TEXT NOT NULL,
    instance TEXT NOT NULL,
    knob TEXT NOT NULL,
    target TEXT NOT NULL,
    value TEXT NOT NULL,       -- JSON, as are current, evidence and predicted
    current TEXT NOT NULL,
    verdict TEXT NOT NULL,
    reason TEXT NOT NULL,
    evidence TEXT NOT NULL,
    predicted TEXT NOT NULL,
    command TEXT NOT NULL,
    rec_id INTEGER NOT NULL,   -- of the latest recommendation, by the extension's count
    count INTEGER NOT NULL,
    first REAL NOT NULL,       -- seconds since 1970, as are the other times
    last REAL NOT NULL,
    expires REAL NOT NULL,
    decided REAL,
    change INTEGER,            -- of the journal
    remark TEXT NOT NULL
) STRICT;
INSERT INTO "advice" VALUES(1,'applied','readahead@sim0','block.read_ahead_kb','sim0','64','8192','advised','mostly random','{"gain": 0.2}','0.2','echo 64',64,1,1800000000.0,1800000000.0,1800003600.0,1800000000.0,5,'');
INSERT INTO "advice" VALUES(2,'rejected','readahead@sim0','block.read_ahead_kb','sim0','128','8192','advised','mostly random','{"gain": 0.2}','0.2','echo 128',128,1,1800000000.0,1800000000.0,1800003600.0,1800000000.0,NULL,'');
INSERT INTO "advice" VALUES(3,'open','readahead@sim0','block.read_ahead_kb','sim0','256','8192','advised','mostly random','{"gain": 0.2}','0.2','echo 256',256,1,1800000000.0,1800000000.0,1800003600.0,NULL,NULL,'');
CREATE INDEX advice_same ON advice (instance, knob, target, value, verdict);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('advice',3);
COMMIT;
PRAGMA user_version = 1;
