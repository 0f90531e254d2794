-- SPDX-License-Identifier: LGPL-2.1-or-later
-- The database test of tools/soak.sh, for the sqlite3 shell. Before it: CREATE TEMP TABLE p AS SELECT n AS seed.
-- All results are integers or texts, the same with any version of sqlite; the host runs it too and compares.
.bail on
CREATE TABLE item(id INTEGER PRIMARY KEY, grp INT NOT NULL, price INT NOT NULL, name TEXT NOT NULL);
CREATE TABLE sale(id INTEGER PRIMARY KEY, item INT NOT NULL REFERENCES item(id), day INT, n INT);
CREATE TABLE audit(id INTEGER PRIMARY KEY, item INT, was INT, is_now INT);
BEGIN;
WITH RECURSIVE g(i, x) AS (SELECT 1, seed * 7919 FROM p
	UNION ALL SELECT i + 1, (x * 1103515245 + 12345) % 2147483648 FROM g WHERE i < 10000)
INSERT INTO item SELECT i, x / 65536 % 500, x / 256 % 10007, printf('item-%08x', x) FROM g;
WITH RECURSIVE g(i, x) AS (SELECT 1, seed * 104729 + 1 FROM p
	UNION ALL SELECT i + 1, (x * 1103515245 + 12345) % 2147483648 FROM g WHERE i < 20000)
INSERT INTO sale SELECT i, x / 1024 % 10000 + 1, x / 65536 % 365, x / 16 % 9 + 1 FROM g;
COMMIT;
SELECT 'sums', count(*) = 10000, sum(id) = 10000 * 10001 / 2 FROM item;
CREATE INDEX item_grp ON item(grp, price);
CREATE UNIQUE INDEX item_name ON item(name, id);
CREATE INDEX sale_item ON sale(item);
CREATE INDEX sale_day ON sale(day) WHERE n > 5;
ANALYZE;
SELECT 'join', count(*), sum(s.n * i.price), max(i.name) FROM sale s JOIN item i ON i.id = s.item;
SELECT 'left', count(*) FROM item i LEFT JOIN sale s ON s.item = i.id WHERE s.id IS NULL;
SELECT 'groups', grp, count(*), sum(price), min(name) FROM item GROUP BY grp ORDER BY sum(price) DESC, grp LIMIT 5;
SELECT 'days', count(*), sum(n) FROM sale WHERE day BETWEEN 100 AND 120 AND n > 5;
SELECT 'best', day, item, r FROM (SELECT day, item, sum(n) AS t, rank() OVER (PARTITION BY day ORDER BY sum(n) DESC, item) AS r
	FROM sale GROUP BY day, item) WHERE r = 1 AND day % 90 = 0 ORDER BY day;
SELECT 'running', sum(v) FROM (SELECT sum(n) OVER (ORDER BY id ROWS BETWEEN 9 PRECEDING AND CURRENT ROW) AS v FROM sale);
CREATE TRIGGER watch AFTER UPDATE OF price ON item BEGIN
	INSERT INTO audit(item, was, is_now) VALUES (old.id, old.price, new.price);
END;
BEGIN;
UPDATE item SET price = price + 1 WHERE grp < 100;
SAVEPOINT half;
DELETE FROM sale;
UPDATE item SET price = 0;
SELECT 'inside', (SELECT count(*) FROM sale), (SELECT sum(price) FROM item), (SELECT count(*) FROM audit) >= 10000;
ROLLBACK TO half;
RELEASE half;
COMMIT;
SELECT 'audit', count(*) = (SELECT count(*) FROM item WHERE grp < 100), sum(is_now - was) = count(*) FROM audit;
BEGIN;
DELETE FROM item;
ROLLBACK;
SELECT 'after', count(*), sum(price) FROM item;
DELETE FROM sale WHERE id % 3 = 0;
SELECT 'deleted', count(*) = 20000 - 20000 / 3 FROM sale;
UPDATE sale SET n = (SELECT price FROM item WHERE item.id = sale.item) % 17 WHERE day < 60;
SELECT 'updated', sum(n), sum(n * n) FROM sale;
INSERT INTO item(id, grp, price, name) SELECT id, grp, 1, name FROM item WHERE id <= 50 ON CONFLICT(id) DO UPDATE SET price = price + 1000;
SELECT 'upsert', count(*), sum(price) FROM item WHERE id <= 60;
SELECT 'like', count(*) FROM item WHERE name LIKE '%ff%';
SELECT 'glob', count(*) FROM item WHERE name GLOB 'item-0[0-7]*';
SELECT 'text', length(group_concat(name)), upper(substr(min(name), -4)), hex(substr(max(name), 6, 3)) FROM item;
SELECT 'plan', sum(a.price = b.price) FROM item a JOIN item b ON a.grp = b.grp AND a.id < b.id WHERE a.grp < 40;
PRAGMA integrity_check;
PRAGMA foreign_key_check;
VACUUM;
REINDEX;
PRAGMA integrity_check;
.sha3sum
SELECT 'end';
