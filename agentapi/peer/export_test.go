package peer

var CheckIDMap = checkIDMap
