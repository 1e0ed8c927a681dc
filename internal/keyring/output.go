package keyring

import (
	"bytes"
	"fmt"
	"os"

	"github.com/keyagent/keyagent/internal/advice"
	"github.com/keyagent/keyagent/internal/inputfile"
	"github.com/keyagent/keyagent/internal/statefile"
)

// WriteFile writes what a command made for others to see, replacing an older one in one step; see
// [statefile.Export]. A key file is no older one: there is no copy of it.
func WriteFile(path string, text []byte) error {
	if holdsKey(path) {
		return requestf("%s holds a key, or something that this command cannot have made, and is not overwritten: choose another file", path)
	}
	return statefile.Export(path, text)
}

// WriteCertificate writes a copy of a certificate that was made, or its only one if it was put
// nowhere else.
func WriteCertificate(path string, r CertificateReport) error {
	err := WriteFile(path, []byte(r.PEM))
	switch {
	case err == nil:
		return nil
	case r.File == "":
		return fmt.Errorf("the certificate was put nowhere: %w", err)
	}
	return advice.To(fmt.Errorf("the key has its certificate, only the copy was not written: %w", err), "do not make another: copy %s", r.File)
}

// holdsKey reports whether a file may hold a key. It reads regular files only, because a pipe or a
// terminal may be there to be written. A file that cannot be read, or is larger than what these
// commands write, may hold one.
func holdsKey(path string) bool {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() {
		return false
	}
	text, err := inputfile.Read(path, maxForeignBytes)
	return err != nil || bytes.Contains(text, []byte("PRIVATE KEY-----"))
}
