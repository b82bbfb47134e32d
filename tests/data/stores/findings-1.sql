-- SPDX-License-Identifier: Apache-2.0
BEGIN TRANSACTION;
CREATE TABLE finding (
    id TEXT PRIMARY KEY,
    state TEXT NOT NULL,       -- open, acknowledged, closed
    instance TEXT NOT NULL,
    module TEXT NOT NULL,
    target TEXT NOT NULL,
    identity TEXT NOT NULL,    -- of the target, as the journal has it
    kind TEXT NOT NULL,
    part TEXT NOT NULL,        -- of the target; empty: all of it
    subject TEXT NOT NULL,     -- both, as they are shown
    severity TEXT NOT NULL,
    score REAL NOT NULL,
    meaning TEXT NOT NULL,     -- of the score
    unit TEXT NOT NULL,
    title TEXT NOT NULL,
    evidence TEXT NOT NULL,    -- JSON, as are causes
    causes TEXT NOT NULL,
    action TEXT NOT NULL,
    since REAL NOT NULL,       -- seconds since 1970, as are the other times
    last REAL NOT NULL,
    expires REAL NOT NULL,
    cleared REAL,
    closed REAL,
    due REAL NOT NULL,         -- when it closes by itself
    lasts_s REAL NOT NULL,     -- without being confirmed
    calm_s REAL NOT NULL,      -- from cleared to closed
    by_admin INTEGER NOT NULL, -- closed by root, who wants to hear no more of it
    times INTEGER NOT NULL,    -- how often it was opened
    why TEXT NOT NULL          -- of its state
) STRICT;
INSERT INTO "finding" VALUES('27479cb01d7083ad','open','slowio@sim0','slowio','sim0','4095:1048575','fail_slow','','sim0','warning',2.0,'Times as slow.','','It is slow.','{"requests": 9}','[]','',1800000000.0,1800000000.0,1800000300.0,NULL,NULL,1800000300.0,300.0,60.0,0,1,'it was found');
INSERT INTO "finding" VALUES('76da001537c9d4a6','closed','slowio@sim0','slowio','sim0','4095:1048575','fail_slow','queue 1','sim0: queue 1','warning',2.0,'Times as slow.','','It is slow.','{"requests": 9}','[]','',1800000000.0,1800000000.0,1800000300.0,NULL,1800000000.0,1800000300.0,300.0,60.0,1,1,'root has closed it');
CREATE TABLE report (
    id TEXT PRIMARY KEY,
    instance TEXT NOT NULL,
    module TEXT NOT NULL,
    target TEXT NOT NULL,
    identity TEXT NOT NULL,
    kind TEXT NOT NULL,
    signature TEXT NOT NULL,
    title TEXT NOT NULL,
    evidence TEXT NOT NULL,
    count INTEGER NOT NULL,
    first REAL NOT NULL,
    last REAL NOT NULL,
    keep_until REAL NOT NULL,
    files TEXT NOT NULL,       -- JSON: name to size
    data TEXT NOT NULL         -- JSON: name to content, in base64
) STRICT;
INSERT INTO "report" VALUES('9167c7d85acc983e','slowio@sim0','slowio','sim0','4095:1048575','failure','s','It fails.','{}',1,1800000000.0,1800000000.0,1802592000.0,'{"a.csv": 3}','{"a.csv":"MSwy"}');
CREATE INDEX finding_due ON finding (due) WHERE state != 'closed';
CREATE INDEX finding_closed ON finding (module, identity, closed) WHERE state = 'closed';
CREATE INDEX report_same ON report (module, identity, last);
COMMIT;
PRAGMA user_version = 1;
