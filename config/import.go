package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxImportedCredentials bounds a list that a person wrote.
const maxImportedCredentials = 64

// defaultSection is where an app's settings are unless its code says otherwise.
const defaultSection = "AzureAd"

// ImportOptions say what to import. The zero value imports an app's settings from their usual
// place.
type ImportOptions struct {
	// Section is the path of the section to be imported, as in "AzureAd:Staff", in any
	// case. "" means AzureAd, or else the settings themselves if they are that section
	// alone, or else the only managed identity that the app uses without a registration.
	Section string
	// FederatedTokenFile is the app's AZURE_FEDERATED_TOKEN_FILE: the path of an assertion's
	// file if the settings do not have it. "" means none.
	FederatedTokenFile string
	// Name is that of the identity, and of its key if it has one. "" means app, or vm for a
	// managed identity. One that no identity can have is an error of [Imported.YAML].
	Name string
}

// Imported is what [ImportAppSettings] made of an app's settings.
type Imported struct {
	// Identity is an application, with the name "app", or a managed identity, with the
	// name "vm", unless [ImportOptions] name it. The name may be changed.
	Identity Identity
	// Notices tell the operator, a line each, which settings were left out and what remains to be
	// done. They contain no secret.
	Notices []string

	opts    ImportOptions
	section *settings
	apis    []api      // that the identity is for
	needs   []string   // resources that its rule needs
	above   []string   // what YAML says above the identity
	entries [][]string // and above each credential
}

// ImportAppSettings makes an identity of an app's settings for Microsoft.Identity.Web, in the forms
// that .NET takes: appsettings.json, an environment (lines NAME=VALUE, an object or a list of
// variables) and local.settings.json of Azure Functions. Names count without regard to case.
// Secrets and passwords are not used. Settings that are not taken over are in the notices; where
// .NET itself would take nothing, or nothing can be used, there is an error, which says why, a line
// each. At most 1 MiB and 64 levels are read.
//
// Sources: Microsoft.Extensions.Configuration (Json, EnvironmentVariables, Binder),
// Microsoft.Identity.Web's MergedOptions and TokenAcquisition, CredentialDescription of
// Microsoft.Identity.Abstractions.
func ImportAppSettings(data []byte, opts ImportOptions) (*Imported, error) {
	app, err := readAppSettings(data)
	if err != nil {
		return nil, err
	}
	if app.env && opts.FederatedTokenFile == "" {
		opts.FederatedTokenFile = app.root.text("AZURE_FEDERATED_TOKEN_FILE")
	}
	section, err := app.pick(opts.Section)
	if err != nil {
		return nil, err
	}
	if err := app.checkComplete(section); err != nil {
		return nil, err
	}
	im := &Imported{opts: opts, section: section}
	if section.usesManagedIdentity() {
		err = im.takeManagedIdentityAlone(app.root)
	} else {
		err = im.takeApplication(app.root)
	}
	if err != nil {
		return nil, err
	}
	im.noteOthers(app.root)
	if namePattern.MatchString(opts.Name) {
		im.Identity.Name = opts.Name
	}
	if _, err := im.YAML(); err != nil {
		return nil, err
	}
	return im, nil
}

// pick returns the section to be imported.
func (a appSettings) pick(name string) (*settings, error) {
	if name != "" {
		section := a.root.at(strings.ReplaceAll(name, "__", ":"))
		if !section.isSection() {
			return nil, fmt.Errorf("no section %s here%s", plainName(name), a.suggestions(nil))
		}
		return section, nil
	}
	usual := a.root.at(defaultSection)
	alone := a.managedIdentities()
	switch {
	case usual.describesApp():
		return usual, nil
	case a.root.describesApp():
		return a.root, nil
	case len(alone) == 1 && len(a.sections()) == 0:
		return alone[0], nil
	case len(alone)+len(a.sections()) > 0 && usual != nil:
		return nil, fmt.Errorf("%s itself has neither ClientId nor credentials%s", defaultSection, a.suggestions(usual))
	case len(alone)+len(a.sections()) > 0:
		return nil, fmt.Errorf("no section %s here%s", defaultSection, a.suggestions(nil))
	case usual.isSection():
		return usual, nil
	case usual.says():
		return nil, fmt.Errorf("%s: a single value, not a section", defaultSection)
	case a.root.hasAny("TenantId", "Authority"):
		return a.root, nil
	}
	return nil, a.nothing(usual)
}

// nothing is the error that says why there is nothing to import.
func (a appSettings) nothing(usual *settings) error {
	switch underscores := a.root.find(func(s *settings) bool { return strings.Contains(s.name, "__") }); {
	case usual != nil:
		return fmt.Errorf("%s is empty: it has no TenantId and no ClientId (%s.TenantId, %s.ClientId)", defaultSection, defaultSection, defaultSection)
	case len(underscores) > 0:
		return fmt.Errorf("no section %s here: %s: two underscores separate names in environments, and in an object of nothing but variables", defaultSection, underscores[0].label())
	}
	return fmt.Errorf("no section %s, and no TenantId, here", defaultSection)
}

// describesApp reports whether a section is that of an app registration.
func (s *settings) describesApp() bool {
	return s.hasAny("ClientId", "ClientCredentials", "ClientCertificates")
}

// sections returns the sections of app registrations.
func (a appSettings) sections() []*settings {
	return a.root.find(func(s *settings) bool {
		return s.has("ClientId") && s.hasAny("TenantId", "Instance", "Authority", "ClientCredentials", "ClientCertificates")
	})
}

// maxSuggestions bounds a line of an error.
const maxSuggestions = 8

// suggestions names settings that could be meant: those below a section, or else any.
func (a appSettings) suggestions(below *settings) string {
	all := append(a.sections(), a.managedIdentities()...)
	if below != nil {
		inside := slices.DeleteFunc(slices.Clone(all), func(s *settings) bool { return !within(s, below) })
		if len(inside) > 0 {
			all = inside
		}
	}
	var names []string
	for _, s := range all {
		if s.path != "" && len(names) < maxSuggestions {
			names = append(names, "--section "+s.label())
		}
	}
	if len(names) == 0 {
		return ""
	}
	return "; did you mean: " + strings.Join(names, ", ")
}

func within(s, section *settings) bool {
	return section.path == "" || strings.HasPrefix(strings.ToLower(s.path)+":", strings.ToLower(section.path)+":")
}

// checkComplete refuses a section of which a part is kept elsewhere: that part could change the
// meaning of the rest.
func (a appSettings) checkComplete(section *settings) error {
	var problems []error
	for _, name := range a.elsewhere {
		if missing := (&settings{path: name}); within(missing, section) {
			problems = append(problems, fmt.Errorf("%s: its value is not here, but where the list refers to: write it into the list", missing.label()))
		}
	}
	return errors.Join(problems...)
}

// noteOthers notes the other sections that could be imported.
func (im *Imported) noteOthers(root *settings) {
	a := appSettings{root: root}
	others := append(a.sections(), a.managedIdentities()...)
	for _, s := range others {
		taken := s == im.section || slices.ContainsFunc(im.apis, func(taken api) bool { return taken.settings == s })
		if !taken && s.path != "" {
			im.note(s.label() + ": another identity, not imported here; --section " + s.label() + " imports it")
		}
	}
}

// YAML returns a block identities that [Parse] accepts as part of a file, with the
// notices as comments, and a rule for it that is commented out: who may have the tokens is
// not in an app's settings. It fails if the identity's name was changed to one that an
// identity cannot have.
func (im *Imported) YAML() ([]byte, error) {
	var file yaml.Node
	block := struct {
		Identities []Identity `yaml:"identities"`
	}{[]Identity{im.Identity}}
	if err := file.Encode(block); err != nil {
		return nil, fmt.Errorf("encoding the identity: %w", err)
	}
	identity := member(&file, "identities").Content[0]
	identity.HeadComment = strings.Join(im.above, "\n")
	credentials := member(member(identity, "application"), "credentials")
	for i, notices := range im.entries {
		credentials.Content[i].HeadComment = strings.Join(notices, "\n")
	}
	text, err := encode(&file)
	if err != nil {
		return nil, err
	}
	if _, err := Parse("the result", text); err != nil {
		return nil, err
	}
	return append(text, im.ruleComment()...), nil
}

// note keeps a notice that is about no credential that is there.
func (im *Imported) note(text string) {
	im.Notices = append(im.Notices, text)
	im.above = append(im.above, text)
}

// in names a setting of the section, as in AzureAd.TenantId.
func (im *Imported) in(setting string) string {
	if im.section.path == "" {
		return setting
	}
	return im.section.label() + "." + setting
}
