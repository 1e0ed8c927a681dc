package imds

// Pauses is the schedule, for the one failure that no server can cause: status 0, a
// time-out on our side.
var Pauses = pauses
