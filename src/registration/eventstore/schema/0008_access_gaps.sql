-- How many reads a crash cost nobody knows: those past the bound of the queue were counted in the
-- memory that went with it. So the bound says nothing of a crash, and a gap of one has no number.
ALTER TABLE access_log_gap ALTER COLUMN lost DROP NOT NULL;
UPDATE access_log_gap SET lost = NULL WHERE reason = 'crash';
ALTER TABLE access_log_gap ADD CHECK ((lost IS NULL) = (reason = 'crash'));
ALTER TABLE access_log_writer DROP COLUMN most;

-- The moment before which all reads of a process are written, by its own clock, as the reads are: a
-- gap that begins there holds every read that can be missing. That a process was seen is no such
-- moment, since a write may take long while others wait behind it. Of a process of an earlier
-- version a minute is room enough for the longest writes, which end after some seconds.
ALTER TABLE access_log_writer ADD COLUMN written_until timestamptz;
UPDATE access_log_writer SET written_until = seen_at - interval '1 minute';
ALTER TABLE access_log_writer ALTER COLUMN written_until SET NOT NULL;
