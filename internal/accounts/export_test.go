package accounts

// ParseEntry is what the fuzz target feeds.
var ParseEntry = parseEntry
