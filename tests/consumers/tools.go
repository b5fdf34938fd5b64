//go:build tools

// Package tools names the published program that is built as it is: the credential plugin of
// managed-serviceaccount, which its images call cp-creds.
package tools

import _ "open-cluster-management.io/managed-serviceaccount/cmd/clusterprofile-credentials-plugin"
