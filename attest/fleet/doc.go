// Package fleet verifies a directory of evidence, a file per machine.
//
// Files are read one at a time by each worker, and rows come out in the order of the files' names
// while later files are still being verified. What is kept of a file is its name and what tells
// machines apart, so that memory does not grow with the files' sizes.
//
// The chain of a chip, from AMD's root to the key that signs reports, is verified once for all
// machines on that chip.
//
// A fleet is verified only if there is at least one file, each file is verified, each machine that
// was to answer has answered, and no machine has answered for another: two files with the same
// attestation key, VM id or binding key are of one machine, whatever their names are. The latter
// can be allowed where a machine has several keys.
package fleet
