// Package waiting keeps what is waited for, so that a long silence has a name: in the log, in the status, beside a command's progress.
//
// A [Board] is told when somebody begins to wait and when that is over. What has been waited for for longer than [Long] is logged
// once, however many wait for it, and once more when nobody does any longer.
package waiting
