-- tenant: its cap was changed, so jobs that were passed over may start: as many bells are due as there is room now
return line.ring_for(ARGV[1])
