//go:build tools

// Package tools names the published programs that are built as they are: the controller example of
// cluster-inventory-api, and the credential plugin of managed-serviceaccount, which its images call cp-creds.
package tools

import (
	_ "open-cluster-management.io/managed-serviceaccount/cmd/clusterprofile-credentials-plugin"
	_ "sigs.k8s.io/cluster-inventory-api/examples/controller-example"
)
