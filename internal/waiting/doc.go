// Package waiting records what the agent waits for, so that the log, the status and a command's
// progress can explain a long pause.
//
// A [Board] records when a wait begins and when it is over. A wait of more than [Long] is logged
// once, however many callers wait for the same thing, and once more when the last of them is done.
//
// [Sleep] waits for a time and [Lock] for exclusive use, both with a context.
package waiting
