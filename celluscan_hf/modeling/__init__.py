"""The ViT, its config and image processor, and weights from and to other libraries; see README.md here."""
