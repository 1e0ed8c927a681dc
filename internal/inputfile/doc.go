// Package inputfile reads what an operator hands to the agent or to a command: secrets, as credentials of
// systemd or in files, and files that are named on a command line.
package inputfile
