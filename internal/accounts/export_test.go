package accounts

// ParseEntry and FindEntry are what the fuzz targets feed.
var ParseEntry = parseEntry

// FindEntry is the parser of the files of local users and groups.
var FindEntry = findEntry
