-- Version 3: what a private network refused, and how many connections it carried at once.
ALTER TABLE usage ADD COLUMN network_denied_packets INTEGER;
ALTER TABLE usage ADD COLUMN network_connections_peak INTEGER;
