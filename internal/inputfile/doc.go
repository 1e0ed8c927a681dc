// Package inputfile reads what an operator hands to the agent or to a command: secrets, from
// systemd credentials or files, and files that a command line names, standard input ("-") included.
//
// What always holds:
//   - A secret is taken only from a file that root or this user owns and that no other user may
//     write; a file that is kept ([Secret]) must not be readable for every user of the machine
//     either.
//   - The open file is checked, not its path.
//   - Reads are limited in size.
//
// # Sources
//
// systemd.exec(5), section Credentials.
package inputfile
