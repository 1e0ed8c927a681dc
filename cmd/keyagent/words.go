package main

import (
	"strings"

	"github.com/keyagent/keyagent/internal/advice"
	"github.com/keyagent/keyagent/internal/shell"
)

// words gives the names of commands and flags for advice. The zero value is ready for use.
type words struct{}

// commandWords are the commands, without the program's name; a test finds each of them.
func commandWords() map[advice.Verb]string {
	return map[advice.Verb]string{
		advice.CreateKey:          "key create",
		advice.ShowKey:            "key show",
		advice.RotateKey:          "key rotate",
		advice.DeleteKey:          "key delete",
		advice.RequestCertificate: "key csr",
		advice.SelfSign:           "key self-sign",
		advice.ImportCertificate:  "cert import",
		advice.ShowCertificate:    "cert show",
		advice.ShowStatus:         "status",
		advice.Diagnose:           "doctor",
		advice.Serve:              serveName,
		advice.CheckConfiguration: "config check",
		advice.CheckTakeover:      "takeover check",
		advice.Setup:              setupName,
		advice.PrepareImage:       imagePrepareName,
		advice.GetToken:           "token",
	}
}

// flagWord is a flag, and what stands for its value where it has none.
type flagWord struct{ name, value string }

func flagWords() map[advice.Flag]flagWord {
	return map[advice.Flag]flagWord{
		advice.Next:           {"--next", ""},
		advice.Finish:         {"--finish", ""},
		advice.Cancel:         {"--cancel", ""},
		advice.Force:          {"--force", ""},
		advice.Replace:        {"--replace", ""},
		advice.Restore:        {"--restore", ""},
		advice.NoImport:       {"--no-import", ""},
		advice.NoAuth:         {"--no-auth", ""},
		advice.LongLived:      {"--long-lived", ""},
		advice.Connect:        {"--connect", ""},
		advice.AuthFile:       {"--auth-file", "FILE"},
		advice.AuthCredential: {"--auth-credential", "NAME"},
		advice.Parent:         {"--parent", "HANDLE"},
		advice.Configuration:  {"--config", "FILE"},
		advice.Socket:         {"--socket", "PATH"},
		advice.Algorithm:      {"--algorithm", "KIND"},
		advice.PCRBank:        {"--pcr-bank", "BANK"},
		advice.Subject:        {"--subject", "CN=NAME"},
		advice.Out:            {"--out", "FILE"},
		advice.File:           {"--file", "FILE"},
		advice.FromKeyFile:    {"--from-key-file", "FILE"},
		advice.Identity:       {"--identity", "NAME"},
		advice.Resource:       {"--resource", "URI"},
		advice.Bound:          {"--bound", "prefer"},
		advice.AppService:     {"--app-service", ""},
	}
}

// Command implements [advice.Words].
func (w words) Command(c advice.Command) string {
	if c.Do == advice.Anything {
		return "keyagent …"
	}
	line := []string{"keyagent", commandWords()[c.Do]}
	if c.Key != "" {
		line = append(line, c.Key)
	}
	for _, f := range c.Flags {
		line = append(line, w.Flag(f))
	}
	return strings.Join(line, " ")
}

// Flag implements [advice.Words].
func (words) Flag(f advice.Flag) string {
	name, value, has := f.Cut()
	word := flagWords()[name]
	switch {
	case has:
		return word.name + " " + shell.Word(value)
	case word.value != "":
		return word.name + " " + word.value
	}
	return word.name
}
