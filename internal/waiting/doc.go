// Package waiting keeps what is waited for, so that a long silence has a name: in the log, in the
// status, beside a command's progress.
//
// A [Board] is told when somebody begins to wait and when that is over. What has been waited for
// for longer than [Long] is logged once, however many wait for it, and once more when nobody does
// any longer.
//
// [Sleep] and [Lock] are how to wait for a time and for others with a context.
package waiting
