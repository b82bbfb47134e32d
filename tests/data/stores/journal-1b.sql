-- SPDX-License-Identifier: Apache-2.0
BEGIN TRANSACTION;
CREATE TABLE change (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    time REAL NOT NULL,        -- seconds since 1970
    boot TEXT NOT NULL,
    knob TEXT NOT NULL,
    target TEXT NOT NULL,
    identity TEXT NOT NULL,    -- of the target: number and serial
    old TEXT NOT NULL,         -- JSON, as are new and evidence
    new TEXT NOT NULL,         -- null: whatever the kernel makes of it
    cause INTEGER,             -- the change that made the kernel reset this knob
    instance TEXT NOT NULL,
    uid INTEGER NOT NULL,
    pid INTEGER NOT NULL,
    start INTEGER NOT NULL,    -- of the process, in ticks since boot
    rec_id INTEGER NOT NULL,
    why TEXT NOT NULL,
    evidence TEXT NOT NULL,
    undo TEXT NOT NULL,        -- what an admin could type
    state TEXT NOT NULL,
    closed REAL,
    remark TEXT NOT NULL DEFAULT ''
) STRICT;
INSERT INTO "change" VALUES(1,1.7959533772249622345e+09,'the boot','block.read_ahead_kb','sim0','4095:1048575','8192','64',NULL,'readahead@sim0',0,4194304,1,0,'once','{"windows": 3}','echo 8192 > /root/sys/block/sim0/queue/read_ahead_kb','undone',1.79595337723879098891e+09,'');
INSERT INTO "change" VALUES(2,1.79595337724680924416e+09,'the boot','block.read_ahead_kb','sim0','4095:1048575','8192','1024',NULL,'readahead@sim0',0,4194304,1,7,'held','{}','echo 8192 > /root/sys/block/sim0/queue/read_ahead_kb','applied',NULL,'');
INSERT INTO "change" VALUES(3,1.79595337725476980206e+09,'the boot','block.read_ahead_kb','sim0','4095:1048575','1024','16',NULL,'readahead@sim0',0,4194304,1,0,'measured','{}','echo 1024 > /root/sys/block/sim0/queue/read_ahead_kb','applied',NULL,'');
INSERT INTO "change" VALUES(4,1.79595337727081108092e+09,'the boot','vm.vfs_cache_pressure','system','system','100','50',NULL,'readahead@sim0',0,4194304,1,0,'kept','{}','echo 100 > /proc/sys/vm/vfs_cache_pressure','kept',1.79595337727510905262e+09,'by policy');
CREATE TABLE drain (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    boot TEXT NOT NULL,
    knob TEXT NOT NULL,
    target TEXT NOT NULL,
    identity TEXT NOT NULL,
    value INTEGER NOT NULL,    -- set again after it
    pid INTEGER NOT NULL,
    start INTEGER NOT NULL
) STRICT
;
INSERT INTO "drain" VALUES(1,'the boot','block.read_ahead_kb','sim0','4095:1048575',16,8539,3196666);
CREATE INDEX change_open ON change (knob, target, id) WHERE state IN ('intended', 'applied');
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('change',4);
INSERT INTO "sqlite_sequence" VALUES('drain',1);
COMMIT;
PRAGMA user_version = 1;
