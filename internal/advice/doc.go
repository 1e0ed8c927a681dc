// Package advice is what an operator can do next: a sentence that goes with an error, a finding or
// a warning, written where the cause is known.
//
// Such a sentence often names a command. The commands and flags of a program are the program's own,
// so a sentence has a [Command] or a [Flag] in their place, which names the purpose, and the
// program's [Words] turn them into a command line when the sentence is shown:
//
//	advice.To(err, "%s begins one", advice.Run(advice.RotateKey, name))
//
// What always holds:
//   - A cause keeps the first advice that it is given: that of the code nearest to it.
//   - Advice changes neither the text of an error nor what errors.Is and errors.As find in it.
//   - An [Advice] is immutable and safe for concurrent use.
package advice
