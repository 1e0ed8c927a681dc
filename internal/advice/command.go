package advice

import (
	"fmt"
	"strings"
)

// Words are the commands and flags of a program.
type Words interface {
	// Command is a command line, as it is typed.
	Command(c Command) string
	// Flag is a flag, as it is typed.
	Flag(f Flag) string
}

// Verb is what a command does.
type Verb string

// The verbs.
const (
	Anything           Verb = "run any command"
	CreateKey          Verb = "create key"
	ShowKey            Verb = "show key" // without a key, all
	RotateKey          Verb = "rotate key"
	DeleteKey          Verb = "delete key"
	RequestCertificate Verb = "request a certificate for key"
	SelfSign           Verb = "self-sign a certificate for key"
	ImportCertificate  Verb = "import the certificate of key"
	ShowCertificate    Verb = "show the certificate of key"
	ShowStatus         Verb = "show the status"
	Diagnose           Verb = "diagnose"
	Serve              Verb = "run the agent"
	CheckConfiguration Verb = "check the configuration"
	CheckTakeover      Verb = "check the takeover"
	Setup              Verb = "set the agent up"
	PrepareImage       Verb = "remove this machine's keys and secrets"
	GetToken           Verb = "get a token of"
)

// Flag modifies a command. [Flag.Is] gives it a value.
type Flag string

// The flags. Those with a value stand for it alone where they have none, as in FILE.
const (
	Next     Flag = "the next generation"
	Finish   Flag = "finish"
	Cancel   Flag = "cancel"
	Force    Flag = "force"
	Replace  Flag = "replace"
	Restore  Flag = "restore"
	NoImport Flag = "import nothing"
	NoAuth   Flag = "no authorization value"

	LongLived Flag = "long-lived"

	AuthFile       Flag = "authorization value from a file"
	AuthCredential Flag = "authorization value from a credential"
	Parent         Flag = "parent"
	Configuration  Flag = "configuration"
	Socket         Flag = "socket"
	Connect        Flag = "connect"
	Algorithm      Flag = "algorithm"
	PCRBank        Flag = "bank of PCRs"
	Subject        Flag = "subject"
	Out            Flag = "write to"
	File           Flag = "file"
	FromKeyFile    Flag = "key file"
	Identity       Flag = "identity"
	Resource       Flag = "resource"
	Bound          Flag = "bound"
	AppService     Flag = "endpoint for programs that do not know the agent"
)

// Is is the flag with a value.
func (f Flag) Is(value string) Flag { return f + "=" + Flag(value) }

// Cut returns a flag's name, and its value if it has one.
func (f Flag) Cut() (name Flag, value string, has bool) {
	n, value, has := strings.Cut(string(f), "=")
	return Flag(n), value, has
}

// Command is something that the program can do.
type Command struct {
	Do    Verb
	Key   string // the key that it is about; empty: none, or any
	Flags []Flag
}

// Run is a command.
func Run(do Verb, key string, flags ...Flag) Command { return Command{do, key, flags} }

// plain are the words where no program has any.
type plain struct{}

func (plain) Command(c Command) string {
	parts := []string{strings.TrimSpace(string(c.Do) + " " + c.Key)}
	for _, f := range c.Flags {
		parts = append(parts, string(f))
	}
	return fmt.Sprintf("[%s]", strings.Join(parts, ", "))
}

func (plain) Flag(f Flag) string { return fmt.Sprintf("[%s]", f) }
