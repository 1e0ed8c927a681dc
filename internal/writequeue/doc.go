// Package writequeue makes writes that may stall, for callers that must not.
//
// A write to a pipe or a socket takes as long as the reader at its other end likes, and only that
// reader can end it. A [Queue] makes its writes one after another in a goroutine of its own, which
// runs while there is something to write. A caller hands over its write and goes on ([Queue.Post]),
// or waits for it for a bounded time ([Queue.Do]).
//
// # Invariants
//
//   - Nobody waits longer than Config.Patience. Once one write took longer than that, nobody waits
//     until the queue is empty again.
//   - The queue is bounded. What finds no room and what fails is lost and counted; when the queue
//     is empty again and writes work, Config.TellLost is given the number.
//   - Writes are made in the order in which they were handed over, never two at a time.
//   - A write that is of use only to a caller that learns of it ([Job.Withdraw]) is not begun after
//     that caller has gone.
//
// # What is not promised
//
// A write that the operating system has taken is done: nothing is forced to a disk, and nobody
// knows whether the reader at the other end has read it. A write that never ends keeps its
// goroutine until the process ends.
package writequeue
